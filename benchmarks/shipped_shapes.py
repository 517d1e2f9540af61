"""Train the bundled model `conditional-detr-tiny-shapes` and store its weights in the package, as 16-bit floats.

It is trained on images of benchmarks/shapes.py, starting from `conditional-detr-tiny-digits`. The weights in the package were
trained with the simpler images of commit 8b85a45.

    python benchmarks/shipped_shapes.py --work DIR    # forty minutes on two cores: AP 0.154, AP50 0.396 on 200 new images
"""

import argparse
from pathlib import Path

from shapes import make_shapes
from shipped_digits import NAME as DIGITS
from shipped_digits import ship

from conditional_detr import train

NAME = "conditional-detr-tiny-shapes"
TRAIN, VALID = 6000, 200
RECIPE = {"init_from": DIGITS, "batch": 4, "lr_backbone": 1e-4, "scales": (0.6, 1.4), "crop": 0.3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="new folder for the data and the run")
    parser.add_argument("--minutes", type=float, default=40.0, help="training time in minutes (default: 40)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 (default) = all available")
    arguments = parser.parse_args()
    data, run = arguments.work / "data", arguments.work / "run"
    if not data.exists():
        make_shapes(data, TRAIN, VALID)
    train(
        data, output=run, minutes=arguments.minutes, imgsz=192, threads=arguments.threads, model_overrides={"num_queries": 100},
        recipe_overrides=RECIPE, resume=True,
    )  # fmt: skip
    ship(run, NAME)


if __name__ == "__main__":
    main()
