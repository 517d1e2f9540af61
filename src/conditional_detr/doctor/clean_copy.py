"""A clean copy of a data set, in COCO folders, with a log of every change."""

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conditional_detr.data.annotations import is_crowd
from conditional_detr.data.discovery import ROBOFLOW_FILE
from conditional_detr.data.findings import Finding
from conditional_detr.doctor.examine import Examined, is_turned
from conditional_detr.doctor.image_scan import ImageScan
from conditional_detr.errors import ConfigError, DataError
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.storage.writing import writing

LOG = "changes.json"
Box = list[float]


def write_copy(splits: dict[str, Examined], findings: Sequence[Finding], output: str | Path) -> dict[str, tuple[int, int]]:
    """Write what can be used as ``SPLIT/_annotations.coco.json`` beside its images, and `changes.json`.

    Images are copied byte by byte; extra fields of annotations are kept.

    Returns
    -------
    images and boxes of each split

    Raises
    ------
    ConfigError : the folder is not new or empty, or cannot be written
    DataError : nothing is left
    """
    folder = Path(output).absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty: the copy needs a new folder")
    unused = {finding.category for finding in findings if finding.code == "category-unused"}
    counts = {}
    with writing(folder, ConfigError), atomic_folder(folder) as new:
        for name, split in splits.items():
            if len(split.skipped) < len(split.clean.images):
                counts[name] = _write_split(split, new / name, unused)
        log = [finding.to_dict() for finding in findings if not finding.fix.startswith("nothing")]
        (new / LOG).write_text(json.dumps(log, indent=1, ensure_ascii=False), encoding="utf-8")
        if not counts:
            raise DataError("no image is left that could be used: nothing was written")
    return counts


def _write_split(split: Examined, folder: Path, unused: set[str | None]) -> tuple[int, int]:
    folder.mkdir()
    images: list[dict[str, Any]] = []
    new_id: dict[int, int] = {}
    names: set[str] = set()
    for i, (image, scan) in enumerate(zip(split.clean.images, split.scans, strict=True)):
        if i in split.skipped:
            continue
        name = _free(Path(image["file_name"]).name, names)
        shutil.copyfile(image["path"], folder / name)
        new_id[i] = image["id"]
        images.append({"id": image["id"], "file_name": name, "width": scan.width, "height": scan.height})
    annotations = []
    for row in split.clean.annotations:
        i = row["image"]
        if i in new_id:
            box = moved(row["bbox"], split.clean.images[i], split.scans[i])
            kept = {key: value for key, value in row.items() if key not in ("image", "written") and _is_json(value)}
            if box != row["bbox"]:  # masks and points are not moved with it
                kept = {key: value for key, value in kept.items() if key not in ("segmentation", "keypoints")}
            if box != row["written"] or not is_number(kept.get("area")):
                kept["area"] = box[2] * box[3]
            annotations.append(kept | {"image_id": new_id[i], "bbox": box, "iscrowd": int(is_crowd(row))})
    categories = [{"id": c.id, "name": c.name} for c in split.clean.categories if c.name not in unused]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / ROBOFLOW_FILE).write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return len(images), len(annotations)


def _free(name: str, names: set[str]) -> str:
    """A file name that is not taken, whatever case file systems see."""
    free, number = name, 1
    while free.lower() in names or free == ROBOFLOW_FILE:
        free, number = f"{Path(name).stem}-{number}{Path(name).suffix}", number + 1
    names.add(free.lower())
    return free


def moved(bbox: Box, image: dict[str, Any], scan: ImageScan) -> Box:
    """A box of the image that was annotated, in the image as it is now: turned or resized with it."""
    if is_turned(image, scan):
        return turned(bbox, scan)
    across, down = scan.width / image["width"], scan.height / image["height"]
    return bbox if across == down == 1 else [bbox[0] * across, bbox[1] * down, bbox[2] * across, bbox[3] * down]


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def turned(bbox: Box, scan: ImageScan) -> Box:
    """A box of the image as it is stored, x, y, w, h px, in the image turned as its EXIF orientation (5 to 8) says."""
    x, y, w, h = bbox
    # A point (x, y) goes to (y, x) for 5, (W − y, x) for 6, (W − y, H − x) for 7, (y, H − x) for 8; W, H of the turned image.
    left = scan.width - y - h if scan.orientation in (6, 7) else y
    top = scan.height - x - w if scan.orientation in (7, 8) else x
    return [left, top, h, w]


def _is_json(value: Any) -> bool:
    """Not what JSON has no word for, such as NaN in a field of a tool's own."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
