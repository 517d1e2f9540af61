"""What can be used of a split's annotations, and what was wrong with the rest: for training, for `doctor` and for its copy."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.data.box_format import COCO, FEW, TOLERANCE_PX, BoxFormat, box_of, detect_box_format, numbers, to_xywh
from conditional_detr.data.findings import ERROR, WARNING, Finding
from conditional_detr.errors import DataError
from conditional_detr.images.header import size_of

Row = dict[str, Any]
Fault = tuple[str, str]  # code and message
MANY_UNKNOWN = 0.1  # of a file's annotations


@dataclass(frozen=True)
class Category:
    """A class as its data set knows it."""

    id: int
    name: str


class SplitLocation(NamedTuple):
    """Where a split is.

    Attributes
    ----------
    split : its name, as its folder has it
    file : what its annotations are read from
    images : the folder that file names start from
    root : the data set's folder, which nothing may leave
    """

    split: str
    file: Path
    images: Path
    root: Path


class Clean(NamedTuple):
    """A split without its faults.

    Attributes
    ----------
    images : "id", "file_name", "path", "width", "height" px
    annotations : as in the file, with an "id" of its own, "image" (its position in `images`), "category_id" of `categories`,
        "bbox" (x, y, w, h, px) inside the image, and "written", the box as it was
    categories : ordered by id
    ground_truth_rows : of every box of a listed category in `images`, also one that is left out of `annotations`: the
        position of its image, category id, x, y, w, h px, area px², whether it is a crowd; what detections are judged against
    findings : what was wrong
    misread : those of them that concern all boxes: who trains must not rely on a guess
    layout : how the boxes are written, as `BoxFormat` has it
    """

    images: list[Row]
    annotations: list[Row]
    categories: list[Category]
    ground_truth_rows: list[tuple[float, ...]]
    findings: list[Finding]
    misread: list[Finding]
    layout: str


def clean(content: dict[str, Any], location: SplitLocation, elsewhere: str = COCO) -> Clean:
    """Judge every image and annotation of a COCO content; what cannot be used is left out and becomes a finding.

    Images are looked for, not opened, but for the size of one that has none in the content.

    Parameters
    ----------
    content : "images", "annotations" and "categories"
    location : where it is from
    elsewhere : how the boxes of another split of the data set are written

    Raises
    ------
    DataError : a category without an integer id or a name; no category at all
    """
    findings: list[Finding] = []
    categories, category_of = categories_of(content["categories"], location, findings)
    images, image_of = _images(content["images"], location, findings)
    rows = content["annotations"]
    written = _written(rows, images, image_of, elsewhere)
    shift, misread = _shift(rows, category_of, location)
    if written.message and written.layout != COCO:
        misread = [*misread, Finding("box-format", location.split, location.file.name, None, written.message)]
    elif written.message:
        findings.append(
            Finding("box-format", location.split, location.file.name, None, written.message, fix="they are clipped")
        )
    listed = {str(row.get("id")) for row in content["images"]}
    owned = _owned(rows, image_of, listed, {None if k is None else k - shift: v for k, v in category_of.items()})
    annotations, faulty = _annotations(owned, images, written.layout, _Ids(rows))
    for row, image, code, message in faulty:
        file = location.file.name if image is None else images[image]["file_name"]
        findings.append(Finding(code, location.split, file, row.get("id"), message))
    return Clean(images, annotations, categories, _ground_truth(owned), [*misread, *findings], misread, written.layout)


class _Owned(NamedTuple):
    """An annotation, the position of its image and its category's id; None where that is not listed."""

    row: Row
    image: int | None
    category: int | None


def _owned(
    rows: list[Row], image_of: dict[int | None, int | None], listed: set[str], category_of: dict[int | None, int]
) -> list[_Owned]:
    """Every annotation but those of an image that is listed and was left out, which is a finding already."""
    owned = []
    for row in rows:
        owner = as_id(row.get("image_id"))
        image = image_of.get(owner)
        if image is not None or (owner not in image_of and str(row.get("image_id")) not in listed):
            owned.append(_Owned(row, image, category_of.get(as_id(row.get("category_id")))))
    return owned


def _ground_truth(owned: list[_Owned]) -> list[tuple[float, ...]]:
    """As `Clean.ground_truth_rows`."""
    found: list[tuple[float, ...]] = []
    for row, image, category in owned:
        box = box_of(row)
        if image is not None and category is not None and box is not None:
            area = numbers([row.get("area")], 1)
            found.append((image, category, *box, area[0] if area else box[2] * box[3], is_crowd(row)))
    return found


def _annotations(
    owned: list[_Owned], images: list[Row], layout: str, ids: "_Ids"
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


def _box(owned: _Owned, images: list[Row], layout: str) -> tuple[list[float] | None, list[Fault]]:
    """As `box_inside`; None too where image or category are not listed."""
    row, image, category = owned
    if image is None:
        return None, [("annotation-orphan", f"belongs to image {row.get('image_id')!r}, which is not listed")]
    if category is None:
        return None, [("category-unknown", f"is of category {row.get('category_id')!r}, which is not listed")]
    return box_inside(row, images[image], layout)


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
    rows: list[Row], location: SplitLocation, findings: list[Finding] | None = None
) -> tuple[list[Category], dict[int | None, int]]:
    """The categories by id, and for each id of the file the one that its boxes go to."""
    findings = [] if findings is None else findings
    by_id: dict[int, str] = {}
    for row in rows:
        id_, name = as_id(row.get("id")), row.get("name")
        if id_ is None or not isinstance(name, str | int | float):
            raise DataError(f"{location.file}: each category must have an integer 'id' and a 'name', not {str(row)[:120]}")
        name = _printable(str(name))
        if id_ in by_id:
            text = f"the category id {id_} is used twice: {by_id[id_]!r}, {name!r}"
            findings.append(Finding("category-duplicate", location.split, location.file.name, None, text))
        by_id.setdefault(id_, name)
    if not by_id:
        raise DataError(f"{location.file} lists no categories")
    first: dict[str, int] = {}
    goes_to: dict[int | None, int] = {}
    for id_, name in sorted(by_id.items()):
        goes_to[id_] = first.setdefault(name, id_)
    for name, times in Counter(by_id.values()).items():
        if times > 1:
            text = f"the category name {name!r} is used {times} times"
            findings.append(Finding("category-duplicate", location.split, location.file.name, None, text))
    return [Category(id_, name) for name, id_ in sorted(first.items(), key=lambda item: item[1])], goes_to


def _images(
    rows: list[Row], location: SplitLocation, findings: list[Finding]
) -> tuple[list[Row], dict[int | None, int | None]]:
    """The images, and for each id of the file the position of its image; None where that is left out."""
    images: list[Row] = []
    image_of: dict[int | None, int | None] = {}
    first_of: dict[str, int] = {}
    files_of: dict[int | None, set[str]] = {}
    for row in rows:
        files_of.setdefault(as_id(row.get("id")), set()).add(str(row.get("file_name")))
    for number, row in enumerate(rows):
        id_, name = as_id(row.get("id")), row.get("file_name")
        file = str(name) if isinstance(name, str | int) and str(name) else f"image {number} of {location.file.name}"
        path = _path(file, location)
        size = as_id(row.get("width")) or 0, as_id(row.get("height")) or 0
        fault = _image_fault(row, file, path, location)
        if fault is None and len(files_of[id_]) > 1:
            text = f"shares the image id {id_} with another image: whose the boxes are cannot be told"
            fault = Finding("image-duplicate", location.split, file, None, text, ERROR, "all of that id are left out")
        elif fault is None and file in first_of:
            fault = Finding("image-duplicate", location.split, file, None, "is listed twice; its objects go to the first")
            image_of[id_] = first_of[file]
        elif fault is None and min(size) < 1:
            size = size_of(path) or (0, 0)
            text = f"has no size in {location.file.name}"
            if min(size) < 1:
                fault = Finding("image-unreadable", location.split, file, None, f"{text}, and its own cannot be read")
            else:
                findings.append(Finding("image-size", location.split, file, None, text, WARNING, "the image's own is taken"))
        if fault:
            findings.append(fault)
            image_of.setdefault(id_, None)
            continue
        image_of[id_] = first_of[file] = len(images)
        images.append({"id": id_, "file_name": file, "path": str(path), "width": size[0], "height": size[1]})
    return images, image_of


def _path(file: str, location: SplitLocation) -> Path:
    """Where an image is; one that Windows wrote may have the other slashes."""
    path = location.images / file
    other = location.images / file.replace("\\", "/")
    return other if "\\" in file and "\0" not in file and not path.exists() else path


def _image_fault(row: Row, file: str, path: Path, location: SplitLocation) -> Finding | None:
    """What makes an image of no use, as far as can be told without opening it."""

    def fault(code: str, message: str) -> Finding:
        return Finding(code, location.split, file, None, message)

    name = row.get("file_name")
    if as_id(row.get("id")) is None or not isinstance(name, str | int) or not str(name):
        return fault("image-missing", f"an image must have a whole number as 'id' and a 'file_name', not {str(row)[:120]}")
    if "\0" in file or not is_inside(path, location.root):
        return fault("image-outside-folder", f"{file!r} leaves the data set's folder {location.root}; it is not read")
    try:
        size = path.stat().st_size
    except OSError as error:
        return fault("image-missing", f"cannot be opened: {error.strerror or error}")
    if not path.is_file():
        return fault("image-missing", "is no file")
    return None if size else fault("image-empty-file", "is an empty file")


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


def _written(rows: list[Row], images: list[Row], image_of: dict[int | None, int | None], elsewhere: str) -> BoxFormat:
    """How the boxes of a file are written."""
    found = [(image_of.get(as_id(row.get("image_id"))), box_of(row)) for row in rows]
    known = [(box, (images[i]["width"], images[i]["height"])) for i, box in found if i is not None and box is not None]
    boxes, sizes = (np.array([pair[k] for pair in known], dtype=np.float64).reshape(-1, 4 - 2 * k) for k in (0, 1))
    return detect_box_format(boxes, sizes, elsewhere)


def _shift(rows: list[Row], category_of: dict[int | None, int], location: SplitLocation) -> tuple[int, list[Finding]]:
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


def _printable(name: str) -> str:
    """A name that can be drawn and written: control characters and halves of characters become �, any space a space."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in name)


def is_inside(path: Path, root: Path) -> bool:
    """By what is written, so that a folder of images may be a link to elsewhere; or by where it truly is."""
    written, top = (Path(os.path.abspath(p)) for p in (path, root))  # noqa: PTH100
    return written.is_relative_to(top) or path.resolve().is_relative_to(root.resolve())
