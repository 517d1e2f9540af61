"""CPU cores and threads. This module does not import torch, because `prepare_threads` must run before torch is loaded."""

import math
import os
import sys
from pathlib import Path

from conditional_detr.device.cpu_quota import cpu_quota
from conditional_detr.errors import ConfigError

# Number of spins before a waiting thread of GNU's OpenMP sleeps. With 0, an image takes 1.4 times as long with `tiny` on an
# idle machine. With ten times as many, it takes three times as long on a busy one (benchmarks/busy.py).
SPINS = "4500"
VARIABLE = "OMP_NUM_THREADS"  # read by torch when it is loaded
_is_registered = False


def usable_cores(root: Path = Path("/")) -> int:
    """Number of CPU cores that this process may use: its CPU affinity, limited by the CPU quota of its container (rounded up).

    Parameters
    ----------
    root : folder that contains `proc` and `sys`
    """
    cores = _cores_to_run_on()
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cores_to_run_on() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_threads() -> None:
    """Set environment variables of OpenMP for this process and its children. Call this before torch is loaded.

    The command line calls it. `Detector` and other functions do not, because their process belongs to the user.

    - Waiting threads spin for some microseconds, then sleep. By default they keep spinning. If other programs need the cores,
      or the container has a CPU quota, one image can then take ten times as long.
    - If a quota allows fewer cores than the machine has, the number of threads is the number of usable cores.

    Variables that are already set are not changed. The OpenMP libraries of GNU, LLVM and Intel all read `OMP_WAIT_POLICY`.
    Their own variables (`GOMP_SPINCOUNT`, `KMP_BLOCKTIME`) take precedence over it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    cores = usable_cores()
    if cores < _cores_to_run_on():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def one_thread_after_fork() -> None:
    """Let torch use one thread in processes that are forked from this one.

    A fork has none of the threads of its parent. GNU's OpenMP would wait for them forever.
    """
    global _is_registered
    if not _is_registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_use_one_thread)
        _is_registered = True


def _use_one_thread() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def set_threads(threads: int) -> None:
    """Set the number of CPU threads of this process; 0 = one per usable core. This function does not load torch."""
    if threads < 0:
        raise ConfigError(f"threads must be 0 (one per usable core) or more, not {threads}")
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads or usable_cores())
    else:
        os.environ[VARIABLE] = str(threads or usable_cores())


def current_threads() -> int:
    """Number of CPU threads for an inference engine: the number that torch uses, or would use if it were loaded."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    stated = os.environ.get(VARIABLE, "")
    return int(stated) if stated.isdigit() and int(stated) else usable_cores()
