"""Write a repaired copy of a data set, as COCO folders, with a log of all changes."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conditional_detr.data.annotations import is_crowd
from conditional_detr.data.findings import Finding
from conditional_detr.data.formats.coco_files import ROBOFLOW_FILE
from conditional_detr.doctor.annotated_size import to_current
from conditional_detr.doctor.examined import Examined
from conditional_detr.errors import ConfigError, DataError
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.storage.writing import writing

LOG = "changes.json"


def check_is_new(output: str | Path) -> None:
    """Check that the output folder of a copy is new or empty. Call this before the work begins.

    Raises
    ------
    ConfigError : the folder is a file, or is not empty
    """
    folder = Path(output).absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(
            f"the output must be a new or empty folder: {folder} is {'a file' if folder.is_file() else 'not empty'}"
        )


def write_copy(
    splits: dict[str, Examined],
    findings: Sequence[Finding],
    output: str | Path,
    copy: Callable[[str, Path], Any] = shutil.copyfile,
) -> dict[str, tuple[int, int]]:
    """Write the usable images and boxes as COCO folders (``SPLIT/_annotations.coco.json``), and the log `changes.json`.

    Image files are copied unchanged. Extra fields of annotations are kept.

    Parameters
    ----------
    copy : copies an image file

    Returns
    -------
    for each split the number of images and of boxes

    Raises
    ------
    ConfigError : the folder exists and is not empty, or cannot be written
    DataError : no image can be used
    """
    check_is_new(output)
    folder = Path(output).absolute()
    unused = {finding.category for finding in findings if finding.code == "category-unused"}
    counts = {}
    with writing(folder, ConfigError), atomic_folder(folder) as new:
        for name, split in splits.items():
            if len(split.skipped) < len(split.clean.images):
                counts[name] = _write_split(split, new / name, unused, copy)
        log = [finding.to_dict() for finding in findings if not finding.fix.startswith("nothing")]
        (new / LOG).write_text(json.dumps(log, indent=1, ensure_ascii=False), encoding="utf-8")
        if not counts:
            raise DataError("no image can be used: nothing was written")
    return counts


def _write_split(split: Examined, folder: Path, unused: set[str | None], copy: Callable[[str, Path], Any]) -> tuple[int, int]:
    folder.mkdir()
    images: list[dict[str, Any]] = []
    categories = [{"id": c.id, "name": c.name} for c in split.clean.categories if c.name not in unused]
    kept_ids = {category["id"] for category in categories}
    new_id: dict[int, int | str] = {}
    names: set[str] = set()
    for i, (image, scan) in enumerate(zip(split.clean.images, split.scans, strict=True)):
        if i in split.skipped:
            continue
        name = _free(Path(image["file_name"]).name, names)
        copy(image["path"], folder / name)
        new_id[i] = image["written_id"]
        row = {"id": image["written_id"], "file_name": name, "width": scan.width, "height": scan.height}
        if image["labelled"] is not None:
            row["labelled_category_ids"] = sorted(image["labelled"] & kept_ids)
        images.append(row)
    annotations = []
    for row in split.clean.annotations:
        i = row["image"]
        if i in new_id:
            current = to_current(row, split.clean.images[i], split.scans[i])
            box = current["bbox"]
            kept = {key: value for key, value in current.items() if key not in ("image", "written") and _is_json(value)}
            if box != row["written"] or not is_number(kept.get("area")):
                kept["area"] = box[2] * box[3]
            annotations.append(kept | {"image_id": new_id[i], "bbox": box, "iscrowd": int(is_crowd(row))})
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / ROBOFLOW_FILE).write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return len(images), len(annotations)


def _free(name: str, names: set[str]) -> str:
    """Return a file name that is not in use, ignoring case because some file systems do."""
    free, number = name, 1
    while free.lower() in names or free == ROBOFLOW_FILE:
        free, number = f"{Path(name).stem}-{number}{Path(name).suffix}", number + 1
    names.add(free.lower())
    return free


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _is_json(value: Any) -> bool:
    """Whether a value can be written as JSON. NaN, for example in an extra field of a tool, cannot."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
