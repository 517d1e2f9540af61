"""Time of a training step in float32 and in bfloat16: two images, each model's default recipe.

Both precisions are timed in turns.

Command: python benchmarks/precision.py        Time: about 3 minutes on 2 cores with bfloat16 instructions.
"""

import argparse
import time
from statistics import median

import torch

from conditional_detr import create_model, make_step

FAST = {"neck": "space_to_depth", "pixel_aligned_positions": True, "reference_points": "encoder"}  # as in the recipe `fast`
CASES = [
    ("conditional-detr-tiny", FAST, 160, 224),
    ("conditional-detr-tiny", FAST, 320, 416),
    ("conditional-detr-r50", {}, 320, 416),
]


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds (default: 9)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, parts, height, width in CASES:
        steps = {
            amp: make_step(create_model(name, num_classes=3, pretrained_backbone=False, **parts), amp)
            for amp in ("off", "bf16")
        }
        images = torch.randn(2, 3, height, width)
        targets = [{"labels": torch.randint(0, 3, (12,)), "boxes": torch.rand(12, 4) * 0.3 + 0.3} for _ in images]
        times: dict[str, list[float]] = {amp: [] for amp in steps}
        for number in range(options.rounds + 1):
            for amp, step in steps.items():
                start = time.perf_counter()
                step(images, None, targets)
                if number:  # round 0 is a warm-up
                    times[amp].append(time.perf_counter() - start)
        exact, rough = (1000 * median(times[amp]) for amp in ("off", "bf16"))
        what = f"{name}, 2 x {height} x {width} px"
        print(f"{what}: float32 {exact:.0f} ms, bfloat16 {rough:.0f} ms, {exact / rough:.2f} times as fast")


if __name__ == "__main__":
    main()
