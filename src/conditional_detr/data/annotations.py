"""Select the usable annotations of a split, and report the faults of the others."""

import re
from collections.abc import Iterable
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.data.box_format import COCO, TOLERANCE_PX, BoxFormat, box_of, detect_box_format, numbers, to_xywh

Row = dict[str, Any]
Fault = tuple[str, str]  # code and message
MANY_UNKNOWN = 0.1  # fraction of the annotations with an unknown category from which on the ids may be off by one
MARKS = {"iscrowd": "crowd", "difficult": "difficult", "ignore": "ignore"}  # field of a COCO annotation → name of the mark
WHOLE = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)


class Owned(NamedTuple):
    """An annotation, the position of its image and its category id. Image or category is None if the file does not list it."""

    row: Row
    image: int | None
    category: int | None


def owned_annotations(
    rows: list[Row], image_of: dict[int | str | None, int | None], listed: set[str], category_of: dict[int | None, int]
) -> list[Owned]:
    """All annotations, except those of images that were left out: such an image has a finding of its own."""
    owned = []
    for row in rows:
        owner = image_key(row.get("image_id"))
        image = image_of.get(owner)
        if image is not None or (owner not in image_of and str(row.get("image_id")) not in listed):
            owned.append(Owned(row, image, category_of.get(as_id(row.get("category_id")))))
    return owned


def ground_truth_of(owned: list[Owned], images: list[Row]) -> list[tuple[float, ...]]:
    """Ground truth, as in `Clean.ground_truth_rows`."""
    found: list[tuple[float, ...]] = []
    for row, image, category in owned:
        box = box_of(row)
        if image is not None and category is not None and box is not None and is_labelled(category, images[image]):
            area = numbers([row.get("area")], 1)
            found.append((image, category, *box, area[0] if area else box[2] * box[3], mark_of(row) is not None))
    return found


def usable_annotations(
    owned: list[Owned], images: list[Row], layout: str, ids: "Ids"
) -> tuple[list[Row], list[tuple[Row, int | None, str, str]]]:
    """Select the annotations that can be used.

    Returns
    -------
    the usable annotations, as in `Clean.annotations`; and for each fault the annotation, the position of its image, the code
    and the message
    """
    annotations: list[Row] = []
    faulty: list[tuple[Row, int | None, str, str]] = []
    boxes: set[Any] = set()
    for each in owned:
        row, image, category = each
        box, faults = _box(each, images, layout)
        key = (image, category, tuple(box or ()), mark_of(row))
        if box is not None and key in boxes:
            box, faults = None, [("box-duplicate", "is a copy of an earlier box: same image, category and coordinates")]
        if box is not None:
            boxes.add(key)
            id_, is_new = ids.of(row)
            if not is_new:
                faults = [*faults, ("annotation-id-duplicate", f"has the annotation id {row.get('id')}, which is already used")]
            changed = {"id": id_, "image": image, "category_id": category, "bbox": box, "written": row.get("bbox")}
            annotations.append(row | changed)
        faulty += [(row, image, *fault) for fault in faults]
    return annotations, faulty


def _box(owned: Owned, images: list[Row], layout: str) -> tuple[list[float] | None, list[Fault]]:
    """Like `box_inside`. The box is also None if the file does not list the image or the category."""
    row, image, category = owned
    if image is None:
        return None, [("annotation-orphan", f"belongs to the image id {row.get('image_id')!r}, which is not listed")]
    if category is None:
        return None, [("category-unknown", f"has the category id {_readable_id(row.get('category_id'))}, which is not listed")]
    if not is_labelled(category, images[image]):
        id_ = _readable_id(row.get("category_id"))
        text = f"has the category id {id_}, which labelled_category_ids of its image does not list"
        return None, [("box-unlabelled", text)]
    return box_inside(row, images[image], layout)


def is_labelled(category: int, image: Row) -> bool:
    """Whether the objects of a category are labelled in an image of `Clean.images`."""
    return image["labelled"] is None or category in image["labelled"]


def _readable_id(value: Any) -> str:
    """An id for a message. 5.0 is shown as 5, because the readers of some formats store ids as floats."""
    return repr(value if as_id(value) is None or isinstance(value, str) else as_id(value))


class Ids:
    """Unique annotation ids. A missing or repeated id is replaced by a new one, above the highest in the file."""

    def __init__(self, rows: list[Row]) -> None:
        self.used: set[int] = set()
        self.next = 1 + max((as_id(row.get("id")) or 0 for row in rows), default=0)

    def of(self, row: Row) -> tuple[int, bool]:
        """Return the id for an annotation, and whether its own id was free."""
        own = as_id(row.get("id"))
        is_free = own not in self.used
        if own is None or not is_free:
            own, self.next = self.next, self.next + 1
        self.used.add(own)
        return own, is_free


def box_inside(row: Row, image: Row, layout: str = COCO) -> tuple[list[float] | None, list[Fault]]:
    """Return the box of an annotation as x, y, w, h in px, clipped to the image (None if it is unusable), and its faults."""
    values = box_of(row)
    if values is None:
        return None, [("box-not-finite", f"must have a bbox of four finite numbers, not {str(row.get('bbox'))[:80]}")]
    width, height = image["width"], image["height"]
    x, y, w, h = values if layout == COCO else to_xywh(np.array([values]), layout, np.array([[width, height]]))[0].tolist()
    if w <= 0 or h <= 0:
        return None, [("box-degenerate", f"has a box with zero or negative width or height: {values}")]
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if x1 <= x0 or y1 <= y0:
        return None, [("box-outside", f"the box {values} lies completely outside its image of {width} x {height} px")]
    clipped = [x0, y0, x1 - x0, y1 - y0]
    if x < -TOLERANCE_PX or y < -TOLERANCE_PX or x + w > width + TOLERANCE_PX or y + h > height + TOLERANCE_PX:
        return clipped, [("box-partly-outside", f"the box {values} extends beyond its image of {width} x {height} px")]
    is_inside = min(x, y) >= 0 and x + w <= width and y + h <= height
    return [x, y, w, h] if is_inside else clipped, []


def box_format_of(
    rows: list[Row], images: list[Row], image_of: dict[int | str | None, int | None], elsewhere: str
) -> BoxFormat:
    """Detect the format of the boxes of a file, see `detect_box_format`."""
    found = [(image_of.get(image_key(row.get("image_id"))), box_of(row)) for row in rows]
    known = [(box, (images[i]["width"], images[i]["height"])) for i, box in found if i is not None and box is not None]
    boxes, sizes = (np.array([pair[k] for pair in known], dtype=np.float64).reshape(-1, 4 - 2 * k) for k in (0, 1))
    return detect_box_format(boxes, sizes, elsewhere)


def as_id(value: Any) -> int | None:
    """Return an id as an integer, also if it is written as 7.0 or "7". None if it is not an integer."""
    if isinstance(value, bool) or (isinstance(value, str) and not WHOLE.fullmatch(value.strip())):
        return None
    try:
        number = int(value.split(".")[0]) if isinstance(value, str) else int(value)
        is_whole = isinstance(value, int | str) or number == value
        return number if is_whole and abs(number) < 2**63 else None
    except (TypeError, ValueError, OverflowError):
        return None


def image_key(value: Any) -> int | str | None:
    """Return an image id as an integer, or as the string in the file. None if it is neither.

    7, 7.0, "7" and "7.0" are the same id. Other ids that are written differently are different.
    """
    number = as_id(value)
    if number is not None and (not isinstance(value, str) or value in (str(number), f"{number}.0")):
        return number
    is_large = isinstance(value, int) and not isinstance(value, bool) and number is None
    return str(value) if is_large or (isinstance(value, str) and value) else None


def image_numbers(keys: Iterable[int | str | None]) -> dict[int | str | None, int | None]:
    """Return a number for each image id. Integers stay as they are. Strings get numbers above the highest integer."""
    keys = list(dict.fromkeys(keys))
    numbers: dict[int | str | None, int | None] = {key: key for key in keys if isinstance(key, int)}
    following = count(1 + max((key for key in keys if isinstance(key, int)), default=-1))
    return numbers | {key: next(following) for key in keys if isinstance(key, str)} | {None: None}


def is_crowd(row: Row) -> bool:
    """Whether an annotation is a crowd region. "iscrowd" may also be a string or a boolean."""
    return is_set(row.get("iscrowd"))


def mark_of(row: Row) -> str | None:
    """Return the mark of an annotation: "crowd", "difficult" (VOC), "ignore", or None.

    Training leaves marked annotations out. In evaluation they count neither as found nor as missed, like crowds in COCO.
    """
    return next((mark for key, mark in MARKS.items() if is_set(row.get(key))), None)


def unmarked(row: Row) -> Row:
    """Return a copy of an annotation without marks."""
    return row | {key: 0 for key in MARKS if key in row}


def is_set(value: Any) -> bool:
    """Whether a flag is set. It may be a number, a string or a boolean."""
    if isinstance(value, str):
        return as_id(value) not in (None, 0) or value.strip().lower() in ("true", "yes")
    return bool(value) and (value is True or as_id(value) not in (None, 0))


def printable(name: str) -> str:
    """Return a printable name. Unprintable characters and lone surrogates are replaced by �, white space by a space."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in name)
