"""`cdetr doctor`."""

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from conditional_detr.cli.printing import print_table

ERRORS_FOUND = 3  # exit code


def doctor(
    data: Path,
    /,
    *,
    fix: Path | None = None,
    json_: Annotated[bool, Parameter(negative="")] = False,
    model: str = "conditional-detr-tiny",
    imgsz: int | None = None,
) -> None:
    """Tell what is wrong with a data set; exit code 3 where something grave is.

    Parameters
    ----------
    data
        COCO, YOLO, Pascal VOC or imagefolder.
    fix
        New folder for a clean copy, in COCO folders, with a log of every change.
    json_
        Print the findings as JSON.
    model
        Model name: whose queries and feature map the objects must suit.
    imgsz
        Length of the shorter side after resizing, px; by default what the model is made for.
    """
    from conditional_detr.config.messages import updated
    from conditional_detr.config.presets import preset
    from conditional_detr.data.findings import WARNING, where
    from conditional_detr.doctor.clean_copy import LOG, write_copy
    from conditional_detr.doctor.examine import examine, is_ok
    from conditional_detr.factory.build import preprocessing_for

    chosen = preset(model)
    image = preprocessing_for(chosen.model, chosen.imgsz)
    if imgsz is not None:
        image = updated(image, {"imgsz": imgsz, "max_size": 0}, "doctor")
    splits, findings = examine(data, chosen.model, image)
    if fix is not None:
        counts = write_copy(splits, findings, fix)
    if json_:
        print(json.dumps({"ok": is_ok(findings), "findings": [f.to_dict() for f in findings]}, ensure_ascii=False))
    else:
        for finding in findings:
            grave = "warning" if finding.severity == WARNING else "error"
            print(f"{grave:<8} {finding.code:<22} {finding.split or '-'}: {where(finding)}: {finding.message} → {finding.fix}")
        rows = [
            [name, split.source.format, str(len(split.clean.images)), str(len(split.clean.annotations))]
            for name, split in splits.items()
        ]
        print_table(["split", "format", "images", "boxes"], rows)
        print(f"{len(findings)} findings" if findings else "nothing found")
    if fix is not None:
        summary = ", ".join(f"{name}: {images} images, {boxes} boxes" for name, (images, boxes) in counts.items())
        print(f"→ {fix} ({summary}), {fix / LOG}", file=sys.stderr if json_ else sys.stdout)
    if not is_ok(findings):
        sys.exit(ERRORS_FOUND)
