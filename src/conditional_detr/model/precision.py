"""Rules for reduced precision: what stays in float32 under autocast, and what an export may not round."""

import torch
from torch import Tensor

# Values of a module's attribute `export_precision`: the lowest precision that an export may use for its matrix products.
# A module without this attribute may be quantised to 8-bit integers.
BF16_OR_HIGHER = "bf16"  # 16 bits are enough
FLOAT32 = "fp32"  # full precision is needed: rounding a box shifts it by pixels


def float32_region(like: Tensor) -> torch.autocast:
    """A context that turns autocast off for the device of `like`.

    Autocast does not support the meta device, which is used to count operations; the CPU stands in for it.
    """
    return torch.autocast("cpu" if like.is_meta else like.device.type, enabled=False)


def autocast_on_cpu(x: Tensor) -> bool:
    """Whether `x` is on the CPU and autocast to 16 bits is on there.

    Callers use it to stay in float32 where PyTorch has no fast 16-bit CPU kernel. In bfloat16, the gradient of a depthwise
    convolution takes ten times as long on a CPU as in float32, and that of attention with narrow heads twice as long.
    `python benchmarks/precision.py` compares complete training steps.
    """
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
