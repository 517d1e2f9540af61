"""Hugging Face's imagefolder: `SPLIT/metadata.jsonl` with a `file_name` and `objects` a line."""

import json
from pathlib import Path
from typing import Any

from conditional_detr.data.clean import box_numbers
from conditional_detr.data.formats.pictures import content_of
from conditional_detr.errors import DataError

METADATA = "metadata.jsonl"
MOST_BYTES = 2**30
LABELS = ("categories", "category", "category_id", "label", "labels")


def splits(root: Path) -> dict[str, Path]:
    """Each split's metadata file."""
    return {file.parent.name: file for file in sorted(root.glob(f"*/{METADATA}"))}


def read(file: Path) -> tuple[dict[str, Any], list[str]]:
    """One split as a COCO content, and what could not be read, a line each; boxes are x, y, w, h px.

    Classes are numbers or names; names are numbered in their order over all splits of the data set.
    """
    faults: list[str] = []
    lines = _lines(file, faults)
    others = [row for other in splits(file.parent.parent).values() if other != file for row in _lines(other, [])]
    labels = {label for row in (*lines, *others) for label, _ in _objects(row)}
    named = any(isinstance(label, str) for label in labels)
    number = {label: i if named else int(label) for i, label in enumerate(sorted(labels, key=str))}
    by_file = {file.parent / str(row["file_name"]): row for row in lines}

    def rows(picture: Path, width: int, height: int) -> list[dict[str, Any]]:
        return [{"category_id": number[label], "bbox": box} for label, box in _objects(by_file[picture])]

    categories = [{"id": i, "name": str(label)} for label, i in sorted(number.items(), key=lambda item: item[1])]
    return content_of(by_file, rows, categories, file.parent.parent), faults


def _lines(file: Path, faults: list[str]) -> list[dict[str, Any]]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DataError(f"{file} is larger than {MOST_BYTES} bytes and is not read")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            faults.append(f"{file}, line {number} must be a JSON object with a 'file_name'")
            continue
        rows.append(row)
    return rows


def _objects(row: dict[str, Any]) -> list[tuple[Any, Any]]:
    """(class, box) each; what has no such lists has no objects."""
    objects = row.get("objects")
    if not isinstance(objects, dict):
        return []
    boxes = objects.get("bbox")
    labels = next((objects[key] for key in LABELS if isinstance(objects.get(key), list)), None)
    if not isinstance(boxes, list) or labels is None:
        return []
    known = [(label, box) for label, box in zip(labels, boxes, strict=False) if isinstance(label, str | int)]
    return [(label, box_numbers(box) or [float("nan")] * 4) for label, box in known]  # which is a finding of its own
