"""`cdetr data split`."""

import sys
from pathlib import Path
from typing import Annotated

from conditional_detr.cli.parameters import DataFolder, argument, option
from conditional_detr.cli.printing import print_next, print_text, print_written, track
from conditional_detr.errors import plural


def split(
    source: DataFolder,
    output: Annotated[Path, argument("New folder for the copy.")],
    /,
    *,
    valid: Annotated[float, option("Data", "Fraction of the images for the validation split.", "FRACTION")] = 0.2,
    test: Annotated[float, option("Data", "Fraction of the images for the test split. 0: no test split.", "FRACTION")] = 0.0,
    seed: Annotated[int, option("Data", "Random seed. The same seed makes the same splits.", "N")] = 0,
) -> None:
    """Split the images of a data set, as COCO folders. Images that look the same stay in one split."""
    from conditional_detr.data.findings import counted
    from conditional_detr.doctor.clean_copy import check_is_new, write_copy
    from conditional_detr.doctor.examine import as_written
    from conditional_detr.doctor.new_splits import divided, shares_of

    shares = shares_of(valid, test)
    check_is_new(output)
    splits, findings = as_written(source, track)
    for line in counted(findings):
        print_text(line, file=sys.stderr)
    if len(splits) > 1:
        print_text(f"The existing splits ({', '.join(splits)}) are merged and split again")
    parts, groups = divided(splits, shares, seed)
    for name, (images, boxes) in write_copy(parts, findings, output).items():
        print_text(f"{name}: {plural(images, 'image')}, {plural(boxes, 'box')}")
    print_text(f"{plural(groups, 'group')} of images that look the same. Each group is in one split. Seed: {seed}")
    print_written(output)
    print_next("train a model", "cdetr", "train", "--data", output)
