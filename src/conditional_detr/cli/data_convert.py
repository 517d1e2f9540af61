"""`cdetr data convert`."""

import sys
from pathlib import Path


def convert(source: Path, output: Path, /) -> None:
    """Write a data set of any format as COCO folders.

    Parameters
    ----------
    source
        COCO, YOLO, Pascal VOC or imagefolder.
    output
        New folder.
    """
    from conditional_detr.data.findings import counted
    from conditional_detr.doctor.clean_copy import write_copy
    from conditional_detr.doctor.examine import as_written

    splits, findings = as_written(source)
    for line in counted(findings):
        print(line, file=sys.stderr)
    for name, (images, boxes) in write_copy(splits, findings, output).items():
        print(f"{name}: {images} images, {boxes} boxes")
    print(f"→ {output}")
