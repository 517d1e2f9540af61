"""`cdetr data digits`."""

from pathlib import Path
from typing import Annotated

from conditional_detr.cli.parameters import argument, option
from conditional_detr.cli.printing import print_next, print_text
from conditional_detr.errors import plural


def digits(
    folder: Annotated[Path, argument("New folder, with a subfolder for each split.")],
    /,
    *,
    train: Annotated[int, option("Data", "Number of training images.", "N")] = 1500,
    valid: Annotated[int, option("Data", "Number of validation images.", "N")] = 300,
    size: Annotated[int, option("Data", "Height and width of an image, px.", "PX")] = 128,
    seed: Annotated[int, option("Data", "Random seed. The same seed makes the same images.", "N")] = 0,
) -> None:
    """Make a small data set to try things with: handwritten digits over photographs, as COCO folders."""
    from conditional_detr.data.digits import make_digits

    make_digits(folder, train, valid, size, seed)
    print_text(
        f"Wrote {plural(train, 'training image')} and {plural(valid, 'validation image')} of {size} x {size} px to {folder}"
    )
    print_next("train a model", "cdetr", "train", "--data", folder, "--imgsz", str(size), "--minutes", "5")
