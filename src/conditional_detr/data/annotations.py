"""Annotations of a split: which can be used, and what was wrong with the rest."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.data.box_format import COCO, FEW, TOLERANCE_PX, BoxFormat, box_of, detect_box_format, numbers, to_xywh
from conditional_detr.data.findings import Finding
from conditional_detr.data.split_location import SplitLocation

Row = dict[str, Any]
Fault = tuple[str, str]  # code and message
MANY_UNKNOWN = 0.1  # of a file's annotations


class Owned(NamedTuple):
    """An annotation, the position of its image and its category's id; None where that is not listed."""

    row: Row
    image: int | None
    category: int | None


def owned_annotations(
    rows: list[Row], image_of: dict[int | None, int | None], listed: set[str], category_of: dict[int | None, int]
) -> list[Owned]:
    """Every annotation but those of an image that is listed and was left out, which is a finding already."""
    owned = []
    for row in rows:
        owner = as_id(row.get("image_id"))
        image = image_of.get(owner)
        if image is not None or (owner not in image_of and str(row.get("image_id")) not in listed):
            owned.append(Owned(row, image, category_of.get(as_id(row.get("category_id")))))
    return owned


def ground_truth_of(owned: list[Owned]) -> list[tuple[float, ...]]:
    """As `Clean.ground_truth_rows`."""
    found: list[tuple[float, ...]] = []
    for row, image, category in owned:
        box = box_of(row)
        if image is not None and category is not None and box is not None:
            area = numbers([row.get("area")], 1)
            found.append((image, category, *box, area[0] if area else box[2] * box[3], is_crowd(row)))
    return found


def usable_annotations(
    owned: list[Owned], images: list[Row], layout: str, ids: "Ids"
) -> tuple[list[Row], list[tuple[Row, int | None, str, str]]]:
    """Those that can be used, as in `Clean`, and each fault: its annotation, the position of its image, code and message."""
    annotations: list[Row] = []
    faulty: list[tuple[Row, int | None, str, str]] = []
    boxes: set[Any] = set()
    for each in owned:
        row, image, category = each
        box, faults = _box(each, images, layout)
        key = (image, category, tuple(box or ()), is_crowd(row))
        if box is not None and key in boxes:
            box, faults = None, [("box-duplicate", "is the same box of the same category as one before")]
        if box is not None:
            boxes.add(key)
            id_, is_new = ids.of(row)
            if not is_new:
                faults = [*faults, ("annotation-id-duplicate", f"the annotation id {row.get('id')} is used twice")]
            changed = {"id": id_, "image": image, "category_id": category, "bbox": box, "written": row.get("bbox")}
            annotations.append(row | changed)
        faulty += [(row, image, *fault) for fault in faults]
    return annotations, faulty


def _box(owned: Owned, images: list[Row], layout: str) -> tuple[list[float] | None, list[Fault]]:
    """As `box_inside`; None too where image or category are not listed."""
    row, image, category = owned
    if image is None:
        return None, [("annotation-orphan", f"belongs to image {row.get('image_id')!r}, which is not listed")]
    if category is None:
        return None, [("category-unknown", f"is of category {row.get('category_id')!r}, which is not listed")]
    return box_inside(row, images[image], layout)


class Ids:
    """Ids of annotations, each once: a missing or a used one makes room for one above all of them."""

    def __init__(self, rows: list[Row]) -> None:
        self.used: set[int] = set()
        self.next = 1 + max((as_id(row.get("id")) or 0 for row in rows), default=0)

    def of(self, row: Row) -> tuple[int, bool]:
        """The id of a row, and whether its own was still free (or it had none)."""
        own = as_id(row.get("id"))
        is_free = own not in self.used
        if own is None or not is_free:
            own, self.next = self.next, self.next + 1
        self.used.add(own)
        return own, is_free


def box_inside(row: Row, image: Row, layout: str = COCO) -> tuple[list[float] | None, list[Fault]]:
    """An annotation's box as x, y, w, h px inside its image, or None; and what was wrong with it."""
    values = box_of(row)
    if values is None:
        return None, [("box-not-finite", f"must be four finite numbers, not {str(row.get('bbox'))[:80]}")]
    width, height = image["width"], image["height"]
    x, y, w, h = values if layout == COCO else to_xywh(np.array([values]), layout, np.array([[width, height]]))[0].tolist()
    if w <= 0 or h <= 0:
        return None, [("box-degenerate", f"has no area: {values}")]
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if x1 <= x0 or y1 <= y0:
        return None, [("box-outside", f"{values} lies outside its image of {width} x {height} px")]
    clipped = [x0, y0, x1 - x0, y1 - y0]
    if x < -TOLERANCE_PX or y < -TOLERANCE_PX or x + w > width + TOLERANCE_PX or y + h > height + TOLERANCE_PX:
        return clipped, [("box-partly-outside", f"{values} reaches outside its image of {width} x {height} px")]
    is_inside = min(x, y) >= 0 and x + w <= width and y + h <= height
    return [x, y, w, h] if is_inside else clipped, []


def box_format_of(rows: list[Row], images: list[Row], image_of: dict[int | None, int | None], elsewhere: str) -> BoxFormat:
    """How the boxes of a file are written."""
    found = [(image_of.get(as_id(row.get("image_id"))), box_of(row)) for row in rows]
    known = [(box, (images[i]["width"], images[i]["height"])) for i, box in found if i is not None and box is not None]
    boxes, sizes = (np.array([pair[k] for pair in known], dtype=np.float64).reshape(-1, 4 - 2 * k) for k in (0, 1))
    return detect_box_format(boxes, sizes, elsewhere)


def category_shift(rows: list[Row], category_of: dict[int | None, int], location: SplitLocation) -> tuple[int, list[Finding]]:
    """What to add to category ids where annotations count from 0 and categories from 1, or the reverse; and what is said."""
    used = Counter(as_id(row.get("category_id")) for row in rows)
    unknown = sum(count for id_, count in used.items() if id_ not in category_of)
    if unknown < max(FEW, MANY_UNKNOWN * len(rows)):
        return 0, []
    for shift in (1, -1):
        if all(id_ is not None and id_ + shift in category_of for id_ in used):
            text = (
                f"{unknown} of {len(rows)} annotations have a category that is not listed; with {shift:+d} all have one: one "
                "side counts from 0, the other from 1"
            )
            return shift, [
                Finding("category-unknown", location.split, location.file.name, None, text, fix=f"{shift:+d} to all of them")
            ]
    return 0, []


def as_id(value: Any) -> int | None:
    """An id as a whole number, also where a tool wrote 7 as 7.0 or "7"; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
        is_whole = isinstance(value, int | str) or number == value
        return number if is_whole and abs(number) < 2**63 else None
    except (TypeError, ValueError, OverflowError):
        return None


def is_crowd(row: Row) -> bool:
    """Whether an annotation is a crowd region, also where a tool wrote "0" or true."""
    value = row.get("iscrowd")
    return value is True or as_id(value) not in (None, 0)
