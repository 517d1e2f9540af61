"""Processor threads."""

import os

import torch

from conditional_detr.errors import ConfigError


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int) -> None:
    """Processor threads of this process; 0 = as many as it may use."""
    if threads < 0:
        raise ConfigError(f"threads must be 0 or more, not {threads}")
    torch.set_num_threads(threads or usable_cores())
