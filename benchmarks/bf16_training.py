"""What training in bfloat16 costs in AP: the demo's digits, with and without it.

On a processor without bfloat16 its products are hundreds of times slower. So everything that autocast would give to them is
rounded to bfloat16 here, inputs and outputs, forward and backward, and multiplied in float32, as such hardware sums.

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

TRAIN, VALID, SCENE_PX = 1600, 300, 128  # scenes, and their side in px
EPOCHS = 4
PARTS = {"num_queries": 40}
RECIPE = {"init_from": "", "batch": 4, "hflip": 0.0, "crop": 0.0, "scales": (1.0, 1.0), "color_jitter": 0.0}
PRODUCTS = (F.linear, F.conv2d, F.scaled_dot_product_attention, torch.matmul, Tensor.matmul, Tensor.__matmul__)


class Rounded(torch.autograd.Function):
    """To bfloat16 and back, for values and for gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.bfloat16().float()


def rounded(x: Any) -> Any:
    """A tensor of floats; anything else as it is."""
    return Rounded.apply(x.float()) if isinstance(x, Tensor) and x.is_floating_point() else x


class InBfloat16(TorchFunctionMode):
    """Products under autocast, with their precision and without their speed."""

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
    """Train twice and print the AP of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=42)
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
