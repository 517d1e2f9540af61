"""What can be used of a split's annotations, and what was wrong with the rest: for training, for `doctor` and for its copy."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from conditional_detr.data.findings import Finding
from conditional_detr.errors import DataError

Row = dict[str, Any]
TOLERANCE_PX = 1.0  # a box may reach so far over its picture's edge before it is worth a word
ENOUGH_BOXES = 8  # to tell by statistics how boxes are written
MANY_WRONG, NEARLY_ALL = 0.3, 0.95


@dataclass(frozen=True)
class Category:
    """A class as its data set knows it."""

    id: int
    name: str


class Place(NamedTuple):
    """Where a split is.

    Attributes
    ----------
    split : its name, as its folder has it
    file : what its annotations are read from
    pictures : the folder that file names start from
    root : the data set's folder, which nothing may leave
    """

    split: str
    file: Path
    pictures: Path
    root: Path


class Clean(NamedTuple):
    """A split without its faults.

    Attributes
    ----------
    images : "id", "file_name", "path", "width", "height" px, "row" (its place in the file's list)
    annotations : as in the file, with an "id" of its own, "image" (the place in `images`), "category_id" of `categories` and
        "bbox" (x, y, w, h, px) inside the picture
    categories : ordered by id
    findings : what was wrong
    """

    images: list[Row]
    annotations: list[Row]
    categories: list[Category]
    findings: list[Finding]


def clean(content: dict[str, Any], place: Place) -> Clean:
    """Judge every image and annotation of a COCO content; what cannot be used is left out and becomes a finding.

    Pictures are looked for, not opened.

    Raises
    ------
    DataError : a category without an integer id or a name; no category at all
    """
    findings: list[Finding] = []
    categories, category_of = categories_of(content["categories"], place, findings)
    images, image_of = _images(content["images"], place, findings)
    written = _format(content["annotations"], images, image_of, place, findings)
    annotations: list[Row] = []
    seen: set[Any] = set()
    ids = _Ids(content["annotations"])
    for row in content["annotations"]:
        owner, category = as_id(row.get("image_id")), category_of.get(as_id(row.get("category_id")))
        i = image_of.get(owner)
        if owner is not None and owner in image_of and i is None:  # the image is left out, which was said
            continue
        file = place.file.name if i is None else images[i]["file_name"]
        box, faults = None, []
        if i is None:
            faults = [("annotation-orphan", f"belongs to image {row.get('image_id')!r}, which is not listed")]
        elif category is None:
            faults = [("category-unknown", f"is of category {row.get('category_id')!r}, which is not listed")]
        else:
            box, faults = box_inside(row.get("bbox"), images[i], written)
        key = (i, category, tuple(box or ()), bool(row.get("iscrowd")))
        if box is not None and key in seen:
            box, faults = None, [("box-duplicate", "is the same box of the same category as one before")]
        if box is not None:
            seen.add(key)
            id_, is_new = ids.of(row)
            if not is_new:
                faults = [*faults, ("annotation-id-duplicate", f"the annotation id {row.get('id')} is used twice")]
            annotations.append(row | {"id": id_, "image": i, "category_id": category, "bbox": box})
        findings += [Finding(code, place.split, file, row.get("id"), message) for code, message in faults]
    return Clean(images, annotations, categories, findings)


class _Ids:
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


def categories_of(
    rows: list[Row], place: Place, findings: list[Finding] | None = None
) -> tuple[list[Category], dict[int | None, int]]:
    """The categories by id, and for each id of the file the one that its boxes go to."""
    findings = [] if findings is None else findings
    by_id: dict[int, str] = {}
    for row in rows:
        id_, name = as_id(row.get("id")), row.get("name")
        if id_ is None or not isinstance(name, str | int | float):
            raise DataError(f"{place.file}: each category must have an integer 'id' and a 'name', not {str(row)[:120]}")
        name = _printable(str(name))
        if id_ in by_id:
            text = f"the category id {id_} is used twice: {by_id[id_]!r}, {name!r}"
            findings.append(Finding("category-duplicate", place.split, place.file.name, None, text))
        by_id.setdefault(id_, name)
    if not by_id:
        raise DataError(f"{place.file} lists no categories")
    first: dict[str, int] = {}
    goes_to: dict[int | None, int] = {}
    for id_, name in sorted(by_id.items()):
        goes_to[id_] = first.setdefault(name, id_)
    for name, times in Counter(by_id.values()).items():
        if times > 1:
            text = f"the category name {name!r} is used {times} times"
            findings.append(Finding("category-duplicate", place.split, place.file.name, None, text))
    return [Category(id_, name) for name, id_ in sorted(first.items(), key=lambda item: item[1])], goes_to


def _images(rows: list[Row], place: Place, findings: list[Finding]) -> tuple[list[Row], dict[int | None, int | None]]:
    """The images, and for each id of the file the place of its image; None where that is left out."""
    images: list[Row] = []
    image_of: dict[int | None, int | None] = {}
    first_of: dict[str, int] = {}
    for number, row in enumerate(rows):
        id_, name = as_id(row.get("id")), row.get("file_name")
        file = str(name) if isinstance(name, str | int) and str(name) else f"image {number} of {place.file.name}"
        fault = _image_fault(row, id_, file, name, place)
        if fault is None and id_ in image_of:
            fault = ("image-duplicate", f"the image id {id_} is used twice")
        elif fault is None and file in first_of:
            fault = ("image-duplicate", "is listed twice; its objects go to the first")
            image_of[id_] = first_of[file]
        if fault:
            findings.append(Finding(fault[0], place.split, file, None, fault[1]))
            image_of.setdefault(id_, None)
            continue
        image_of[id_] = first_of[file] = len(images)
        sizes = {"width": int(row["width"]), "height": int(row["height"])}
        images.append({"id": id_, "file_name": file, "path": str(place.pictures / file), "row": number} | sizes)
    return images, image_of


def _image_fault(row: Row, id_: int | None, file: str, name: Any, place: Place) -> tuple[str, str] | None:
    if id_ is None or not isinstance(name, str | int) or not str(name):
        return "image-missing", f"an image must have an integer 'id' and a 'file_name', not {str(row)[:120]}"
    path = place.pictures / file
    if "\0" in file or not is_inside(path, place.root):
        return "image-outside-folder", f"{file!r} leaves the data set's folder {place.root}; it is not read"
    sides = as_id(row.get("width")), as_id(row.get("height"))
    try:
        size = path.stat().st_size
    except OSError as error:
        return "image-missing", f"cannot be opened: {error.strerror or error}"
    if not size:
        return "image-empty-file", "is an empty file"
    if None in sides or min(side or 0 for side in sides) < 1:
        return "image-size", f"must have a 'width' and a 'height', not {row.get('width')!r} x {row.get('height')!r}"
    return None


Fault = tuple[str, str]  # code and message


def box_inside(bbox: Any, image: Row, written: str = "xywh") -> tuple[list[float] | None, list[Fault]]:
    """A box as x, y, w, h px inside its picture, or None; and what was wrong with it."""
    values = box_numbers(bbox)
    if values is None:
        return None, [("box-not-finite", f"must be four finite numbers, not {str(bbox)[:80]}")]
    width, height = image["width"], image["height"]
    x, y, w, h = WRITTEN[written](values, width, height)
    if w <= 0 or h <= 0:
        return None, [("box-degenerate", f"has no area: {values}")]
    x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if x1 <= x0 or y1 <= y0:
        return None, [("box-outside", f"{values} lies outside its picture of {width} x {height} px")]
    clipped = [x0, y0, x1 - x0, y1 - y0]
    if not _fits([x, y, w, h], (width, height)):
        return clipped, [("box-partly-outside", f"{values} reaches outside its picture of {width} x {height} px")]
    is_inside = min(x, y) >= 0 and x + w <= width and y + h <= height
    return [x, y, w, h] if is_inside else clipped, []


def _corners(v: list[float], width: int, height: int) -> list[float]:
    return [v[0], v[1], v[2] - v[0], v[3] - v[1]]


def _swapped(v: list[float], width: int, height: int) -> list[float]:
    return [v[1], v[0], v[3], v[2]]


def _normalised(v: list[float], width: int, height: int) -> list[float]:
    return [v[0] * width, v[1] * height, v[2] * width, v[3] * height]


def _normalised_centre(v: list[float], width: int, height: int) -> list[float]:
    return _normalised([v[0] - v[2] / 2, v[1] - v[3] / 2, v[2], v[3]], width, height)


def _as_it_is(v: list[float], width: int, height: int) -> list[float]:
    return v


WRITTEN: dict[str, Callable[[list[float], int, int], list[float]]] = {  # how boxes may be written → x, y, w, h px
    "xywh": _as_it_is,
    "xyxy": _corners,
    "yxhw": _swapped,
    "normalised xywh": _normalised,
    "normalised cxcywh": _normalised_centre,
}


def _format(
    rows: list[Row], images: list[Row], image_of: dict[int | None, int | None], place: Place, findings: list[Finding]
) -> str:
    """How the boxes of a file are written, by statistics: as COCO says, unless that fails often and another way hardly ever."""
    found = [(image_of.get(as_id(row.get("image_id"))), box_numbers(row.get("bbox"))) for row in rows]
    boxes = [(values, (images[i]["width"], images[i]["height"])) for i, values in found if i is not None and values is not None]
    if len(boxes) < ENOUGH_BOXES:
        return "xywh"
    candidates: tuple[str, ...] = ()
    if max(max(v) for v, _ in boxes) <= 1 < min(min(size) for _, size in boxes):  # a whole file of boxes below a pixel
        candidates = ("normalised xywh", "normalised cxcywh")
    elif 1 - mean(_fits(v, size) for v, size in boxes) >= MANY_WRONG:
        candidates = ("xyxy", "yxhw")
    fits = {name: mean(_fits(WRITTEN[name](v, *size), size) for v, size in boxes) for name in candidates}
    best = max(candidates, key=lambda name: fits[name], default="xywh")
    if best == "xywh" or fits[best] < NEARLY_ALL:
        return "xywh"
    text = f"boxes are written as {best}, not as x, y, w, h in px: {fits[best]:.0%} of {len(boxes)} fit so"
    findings.append(Finding("box-format", place.split, place.file.name, None, text))
    return best


def _fits(box: list[float], size: tuple[int, int]) -> bool:
    """Whether a box has an area and lies inside a picture of that width and height."""
    x, y, w, h = box
    inside = min(x, y) >= -TOLERANCE_PX and x + w <= size[0] + TOLERANCE_PX and y + h <= size[1] + TOLERANCE_PX
    return inside and w > 0 and h > 0


def box_numbers(bbox: Any) -> list[float] | None:
    """Four finite numbers, also where a tool wrote them as texts; or None."""
    if not isinstance(bbox, list | tuple):
        return None
    try:
        values = [float(v) for v in bbox]
    except (TypeError, ValueError, OverflowError):
        return None
    return values if len(values) == 4 and all(map(math.isfinite, values)) else None


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


def _printable(name: str) -> str:
    """A name that can be drawn and written: control characters and halves of characters become �, any space a space."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in name)


def is_inside(path: Path, root: Path) -> bool:
    """By what is written, so that a folder of pictures may be a link to elsewhere; or by where it truly is."""
    written, top = (Path(os.path.abspath(p)) for p in (path, root))  # noqa: PTH100
    return written.is_relative_to(top) or path.resolve().is_relative_to(root.resolve())


def some(names: Iterable[str]) -> str:
    """The first three."""
    names = list(names)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
