"""CPU threads."""

import os

import torch

from conditional_detr.errors import ConfigError


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int) -> None:
    """Set the number of CPU threads of this process; 0 = one per usable core."""
    if threads < 0:
        raise ConfigError(f"threads must be 0 or more, not {threads}")
    torch.set_num_threads(threads or usable_cores())
