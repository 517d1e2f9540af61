"""CPU threads."""

import os
import sys

from conditional_detr.errors import ConfigError

VARIABLE = "OMP_NUM_THREADS"  # which torch reads when it is loaded


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int) -> None:
    """Set the number of CPU threads of this process; 0 = one per usable core. This does not load torch."""
    if threads < 0:
        raise ConfigError(f"threads must be 0 or more, not {threads}")
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads or usable_cores())
    else:
        os.environ[VARIABLE] = str(threads or usable_cores())


def current_threads() -> int:
    """Number of CPU threads for an inference engine: as many as torch uses, or would use."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    stated = os.environ.get(VARIABLE, "")
    return int(stated) if stated.isdigit() and int(stated) else usable_cores()
