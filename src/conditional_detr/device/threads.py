"""CPU cores and threads. Nothing here imports torch before it is needed: `prepare_threads` must come first."""

import math
import os
import sys
from pathlib import Path

from conditional_detr.device.cpu_quota import cpu_quota
from conditional_detr.errors import ConfigError

# Turns of GNU's OpenMP before a thread sleeps. Without any, one image through tiny takes 1.4 times as long on an idle machine;
# with ten times as many, three times as long on a busy one (benchmarks/busy.py).
SPINS = "4500"
_is_registered = False
VARIABLE = "OMP_NUM_THREADS"  # which torch reads when it is loaded


def usable_cores(root: Path = Path("/")) -> int:
    """Number of CPU cores that this process may use: those it may run on, at most the CPU quota of its container (rounded up).

    Parameters
    ----------
    root : where `proc` and `sys` are
    """
    cores = _cores_to_run_on()
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def _cores_to_run_on() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prepare_threads() -> None:
    """Set what OpenMP reads when torch is loaded, for this process and its children. Called only where the process is ours.

    - Threads that wait for each other spin for some microseconds, then sleep. By default they spin on, and take the time that
      other programs on the same cores, or the rest of a container's quota, would use: one image can take ten times as long.
    - There are as many threads as usable cores, if a quota allows fewer than the machine has.

    Variables that are already set stay. GNU's, LLVM's and Intel's OpenMP all read `OMP_WAIT_POLICY`; their own variables
    (`GOMP_SPINCOUNT`, `KMP_BLOCKTIME`) take precedence over it.
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
