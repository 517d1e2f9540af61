"""Compare the AP after training in bfloat16 and in float32, on the demo's digits.

On a processor without bfloat16 instructions, bfloat16 products are hundreds of times slower. This benchmark emulates them: the
inputs and outputs of every product that autocast would compute in bfloat16 are rounded to bfloat16, forward and backward, and
the product itself is computed in float32, because bfloat16 hardware accumulates in float32.

Command: python benchmarks/bf16_training.py --work DIR        Time: about 14 minutes on one core.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from conditional_detr import train
from conditional_detr.data.digits import make_digits

TRAIN, VALID, SCENE_PX = 1600, 300, 128  # numbers of scenes, and the side of a scene in px
EPOCHS = 4
PARTS = {"num_queries": 40}
RECIPE = {"init_from": "", "batch": 4, "hflip": 0.0, "crop": 0.0, "scales": (1.0, 1.0), "color_jitter": 0.0}
PRODUCTS = (F.linear, F.conv2d, F.scaled_dot_product_attention, torch.matmul, Tensor.matmul, Tensor.__matmul__)


class Rounded(torch.autograd.Function):
    """Rounds values and gradients to bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.bfloat16().float()


def rounded(x: Any) -> Any:
    """Round a floating-point tensor. Other arguments are returned unchanged."""
    return Rounded.apply(x.float()) if isinstance(x, Tensor) and x.is_floating_point() else x


class InBfloat16(TorchFunctionMode):
    """Emulates the products that autocast computes in bfloat16: same precision, not faster."""

    products = 0

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function not in PRODUCTS or not torch.is_autocast_enabled("cpu"):
            return function(*args, **kwargs)
        InBfloat16.products += 1
        with torch.autocast("cpu", enabled=False):
            exact = function(*map(rounded, args), **{key: rounded(value) for key, value in kwargs.items()})
        return rounded(exact)


def main() -> None:
    """Train once in each precision and print the AP."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--seed", type=int, default=42, help="random seed (default: 42)")
    options = parser.parse_args()
    data = options.work / "digits"
    if not data.exists():
        make_digits(data, TRAIN, VALID, SCENE_PX)
    for amp in ("bf16", "off"):
        with InBfloat16() if amp == "bf16" else nullcontext():
            run = train(
                data, "conditional-detr-tiny", options.work / amp, epochs=EPOCHS, imgsz=SCENE_PX, amp=amp, workers=0,
                threads=options.threads, seed=options.seed, model_overrides=PARTS, recipe_overrides=RECIPE,
            )  # fmt: skip
        last = run.metrics[-1]
        print(f"amp {amp}: AP {last['AP']:.4f}, AP50 {last['AP50']:.4f}, loss {last['loss']:.3f}", flush=True)
    print(f"{InBfloat16.products} products were rounded")


if __name__ == "__main__":
    main()
