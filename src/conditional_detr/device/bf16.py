"""Detect whether matrix products are faster in bfloat16 than in float32."""

import math
import time
from functools import cache

import torch

PRODUCTS, PRODUCT_SIDE = 9, 512  # number of matrix products timed on a CPU; rows and columns of the matrices
MIN_BF16_SPEEDUP = 1.2  # bfloat16 is used if it is at least this many times as fast as float32


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products on this device are faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":  # not timed without bf16 instructions, because products are then hundreds of times slower
        known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) and _bf16_is_faster()
    return False


@cache
def _bf16_is_faster() -> bool:
    """Time matrix products in both types, because bf16 instructions are not always faster.

    On Intel processors without AMX they are half as fast as float32.
    """
    seconds = dict.fromkeys((torch.float32, torch.bfloat16), math.inf)
    for _ in range(PRODUCTS):
        for dtype in seconds:
            matrix = torch.ones(PRODUCT_SIDE, PRODUCT_SIDE, dtype=dtype)
            started = time.perf_counter()
            matrix @ matrix
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - started)
    return seconds[torch.float32] > MIN_BF16_SPEEDUP * seconds[torch.bfloat16]
