"""What is computed in float32 where autocast is on, and what an export may not round."""

import torch
from torch import Tensor

# `export_precision` of a module: what its products may be rounded to when a model is exported. Without it: to 8-bit integers.
NO_INTEGERS = "bf16"  # 16 bits are enough
FLOAT32 = "fp32"  # the last digits count: a box's are pixels


def float32_region(like: Tensor) -> torch.autocast:
    """Where autocast, if it is on, has no say. (It does not know the meta device, on which work is counted.)"""
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)


def autocast_on_cpu(x: Tensor) -> bool:
    """Whether a processor would take 16 bits for this: a loss where PyTorch has no fast kernel for them.

    A depthwise convolution's gradient takes it ten times as long in bfloat16 as in float32, attention's with narrow heads
    twice: `python benchmarks/precision.py` compares whole steps.
    """
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
