"""Whether matrix products are faster in bfloat16."""

import math
import time
from functools import cache

import torch

PRODUCTS, PRODUCT_SIDE = 9, 512  # that are timed on a processor, and their rows and columns


BF16_PAYS = 1.2  # times as fast as float32, from where on it is taken


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
