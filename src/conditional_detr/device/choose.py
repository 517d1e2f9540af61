"""Choose a device, and recognise out-of-memory errors."""

import torch

from conditional_detr.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """Return a device by name. "auto" selects a GPU if there is one."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError(
            f"the device {name!r} is not available here: use auto or cpu, or a device that PyTorch supports on this machine "
            "(cuda, cuda:N, mps)"
        ) from None
    return device


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error is an out-of-memory error of a GPU or the CPU. The CPU allocator raises a plain `RuntimeError`."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
