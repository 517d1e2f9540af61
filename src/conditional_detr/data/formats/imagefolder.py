"""Reader for Hugging Face's imagefolder: a `metadata.jsonl` with a `file_name` and `objects` in each line."""

import json
from pathlib import Path
from typing import Any

from conditional_detr.data.annotations import as_id
from conditional_detr.data.box_format import numbers
from conditional_detr.data.file_lookup import FileLookup
from conditional_detr.data.findings import RULES
from conditional_detr.data.formats.image_files import Fault, content_of, images_of, unlisted_images
from conditional_detr.data.splits.location import SplitLocation
from conditional_detr.data.splits.names import usual_split
from conditional_detr.data.text import text_of
from conditional_detr.errors import DataError
from conditional_detr.images.file_types import is_visible
from conditional_detr.storage.json import without_surrogates

ALL = "all"  # name of the only split of a data set without splits
METADATA = "metadata.jsonl"
MAX_BYTES = 2**30  # largest metadata file
BOXES = ("bbox", "bboxes", "boxes")
LABELS = ("categories", "category", "category_id", "category_ids", "label", "labels")

Object = tuple[str | int, Any]  # class and box


def splits(root: Path) -> dict[str, Path]:
    """Find the metadata file of each split: `SPLIT/metadata.jsonl`, `data/SPLIT/metadata.jsonl` or one file for all splits.

    In one file for all splits, the folder of an image is its split. Without such folders, all images are the split "all".
    """
    for pattern in (f"*/{METADATA}", f"data/*/{METADATA}"):
        if found := [file for file in sorted(root.glob(pattern)) if is_visible(file.parent.name)]:
            return {file.parent.name: file for file in found}
    file = root / METADATA
    return {_split_of(row): file for row in _lines(file, [])} if file.is_file() else {}


def _split_of(row: dict[str, Any]) -> str:
    """Return the split of a line in a file for all splits."""
    folders = Path(row["file_name"].replace("\\", "/")).parts[:-1]
    return next((folder for folder in folders if usual_split(folder)), ALL)


def read(file: Path, location: SplitLocation) -> tuple[dict[str, Any], list[Fault]]:
    """Read a split. Returns its COCO content and the faults. Boxes in the file are x, y, w, h in px.

    Classes are numbers or names. Names are sorted over all splits of the data set and numbered from 0. An image may have
    several lines.
    """
    faults: list[Fault] = []
    lines = _lines(file, faults)
    others = [row for other in {*splits(location.root).values()} - {file} for row in _lines(other, [])]
    if file.parent == location.root:
        others += lines
        lines = [row for row in lines if _split_of(row) == location.split]
    labels = {label for row in others for label, _ in _objects(row, file, []) or []}
    objects: dict[str, list[Object]] = {}
    unreadable: set[str] = set()
    for row in lines:
        found = _objects(row, file, faults)
        unreadable |= {row["file_name"]} if found is None else set()
        objects.setdefault(row["file_name"], []).extend(found or [])
    labels |= {label for each in objects.values() for label, _ in each}
    if not labels:
        example = f", e.g. {faults[0].file}: {faults[0].message}" if faults else ""
        raise DataError(f"{file} has no object that can be read{example}")
    named = any(isinstance(label, str) for label in labels)
    number = {label: i if named else int(label) for i, label in enumerate(sorted(labels, key=str))}

    lookup = FileLookup(file.parent, location.root, location.split)
    names = [name for name in objects if name not in unreadable]
    by_image: dict[Path, list[Object]] = {}
    for name in names:
        by_image.setdefault(lookup.path_of(name), []).extend(objects[name])
    images = dict.fromkeys(images_of(names, lookup, file, faults))
    listed = [row["file_name"] for row in others] if file.parent == location.root else []
    faults += unlisted_images([file.parent], [*objects, *listed, *map(str, images)])

    def rows(image: Path, width: int, height: int) -> list[dict[str, Any]]:
        return [{"category_id": number[label], "bbox": box} for label, box in by_image[image]]

    categories = [{"id": i, "name": str(label)} for label, i in sorted(number.items(), key=lambda item: item[1])]
    return content_of(images, rows, categories, location), faults


def _lines(file: Path, faults: list[Fault]) -> list[dict[str, Any]]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataError(f"{file} must not be larger than {MAX_BYTES} bytes: it has {file.stat().st_size}")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    rows = []
    for number, line in enumerate(text_of(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = without_surrogates(json.loads(line))
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            faults.append(Fault(str(file), f"line {number} must be a JSON object with a 'file_name'", "the line is left out"))
            continue
        rows.append(row)
    return rows


def _objects(row: dict[str, Any], file: Path, faults: list[Fault]) -> list[Object] | None:
    """Return the objects of a line. None if they cannot be read.

    "objects" may be a dict with a list of boxes and a list of classes, or a list of dicts with one box and one class each.
    Without "objects" the line itself must have the two lists.
    """
    objects = row.get("objects", row)
    if isinstance(objects, list) and all(isinstance(each, dict) for each in objects):
        objects = {key: [each.get(key) for each in objects] for key in {key for each in objects for key in each}}
    if not isinstance(objects, dict):
        objects = {}
    boxes = next((objects[key] for key in BOXES if isinstance(objects.get(key), list)), None)
    labels = next((objects[key] for key in LABELS if isinstance(objects.get(key), list)), None)
    if boxes is None and labels is None and not row.get("objects"):
        return []
    name = str(file.parent / row["file_name"])
    if boxes is None or labels is None or len(boxes) != len(labels):
        counts = "none" if boxes is None else len(boxes), "none" if labels is None else len(labels)
        text = f"must have as many boxes ({', '.join(BOXES)}) as classes ({', '.join(LABELS)}), not {counts[0]} and {counts[1]}"
        faults.append(Fault(name, text, RULES["annotation-unreadable"].fix, "annotation-unreadable"))
        return None
    found: list[Object] = []
    for label, box in zip(labels, boxes, strict=True):
        known = label if isinstance(label, str) else as_id(label)
        if known is None:
            faults.append(Fault(name, f"a class must be a name or a number, not {str(label)[:60]}", "the box is left out"))
        else:
            found.append((known, numbers(box) or [float("nan")] * 4))  # NaN is reported later as box-not-finite
    return found
