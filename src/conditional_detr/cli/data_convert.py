"""`cdetr data convert`."""

import sys
from pathlib import Path
from typing import Annotated

from conditional_detr.cli.parameters import DataFolder, argument
from conditional_detr.cli.printing import print_next, print_text, print_written, track


def convert(source: DataFolder, output: Annotated[Path, argument("New folder for the copy.")], /) -> None:
    """Convert a data set of any supported format to COCO folders."""
    from conditional_detr.data.findings import counted
    from conditional_detr.doctor.clean_copy import check_is_new, write_copy
    from conditional_detr.doctor.examine import as_written

    check_is_new(output)
    splits, findings = as_written(source, track)
    for line in counted(findings):
        print_text(line, file=sys.stderr)
    for name, (images, boxes) in write_copy(splits, findings, output).items():
        print_text(f"{name}: {images} images, {boxes} boxes")
    print_written(output)
    print_next("check the data set", "cdetr", "doctor", output)
