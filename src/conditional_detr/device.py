"""Where a model runs: its device, and how many of the processor's cores."""

import math
import os
import time
from functools import cache

import torch

from conditional_detr.errors import ConfigError

PRODUCTS, PRODUCT_SIDE = 9, 512  # that are timed on a processor, and their rows and columns
BF16_PAYS = 1.2  # times as fast as float32, from where on it is taken


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


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products are faster in bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":  # without instructions for it, bf16 products on a processor are hundreds of times slower
        known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) and _bf16_is_faster()
    return False


@cache
def _bf16_is_faster() -> bool:
    """As timed: that a processor has the instructions does not say so. Without AMX, Intel's have half of float32's speed."""
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    for _ in range(PRODUCTS):
        for dtype in seconds:
            matrix = torch.ones(PRODUCT_SIDE, PRODUCT_SIDE, dtype=dtype)
            started = time.perf_counter()
            matrix @ matrix
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    return seconds[torch.float32] > BF16_PAYS * seconds[torch.bfloat16]


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int) -> None:
    """Processor threads of this process; 0 = as many as it may use."""
    if threads < 0:
        raise ConfigError(f"threads must be 0 or more, not {threads}")
    torch.set_num_threads(threads or usable_cores())


def is_out_of_memory(error: RuntimeError) -> bool:
    """Of a GPU, or of the processor, whose allocator has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def random_state_of(device: torch.device) -> list[torch.Tensor]:
    """The state of the generators that `seed_generators` seeds."""
    own = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state(device)]
    return [torch.get_rng_state(), *own]


def set_random_state(state: list[torch.Tensor], device: torch.device) -> None:
    """Put them back into a state that they had."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.get_device_module(device).set_rng_state(state[1], device)


def seed_generators(seed: int, device: torch.device) -> None:
    """As `torch.manual_seed`, for the processor and one device: that one keeps a stack trace a call for GPUs still asleep."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
