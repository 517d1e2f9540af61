"""The device that a model runs on, and whether its memory is full."""

import torch

from conditional_detr.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """A device by its name; "auto" takes a GPU where there is one."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError(f"the device {name!r} is not there: device must be auto, cpu, cuda, cuda:N or mps") from None
    return device


def is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU, or of the processor, whose allocator has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
