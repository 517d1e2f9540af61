"""What can be used of a split's annotations, and what was wrong with the rest: for training, for `doctor` and for its copy."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from conditional_detr.data.annotations import (
    Ids,
    Row,
    as_id,
    box_format_of,
    category_shift,
    ground_truth_of,
    owned_annotations,
    usable_annotations,
)
from conditional_detr.data.box_format import COCO
from conditional_detr.data.findings import ERROR, WARNING, Finding
from conditional_detr.data.split_location import SplitLocation, is_inside
from conditional_detr.errors import DataError
from conditional_detr.images.header import size_of


@dataclass(frozen=True)
class Category:
    """A class as its data set knows it."""

    id: int
    name: str


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
    written = box_format_of(rows, images, image_of, elsewhere)
    shift, misread = category_shift(rows, category_of, location)
    if written.message and written.layout != COCO:
        misread = [*misread, Finding("box-format", location.split, location.file.name, None, written.message)]
    elif written.message:
        findings.append(
            Finding("box-format", location.split, location.file.name, None, written.message, fix="they are clipped")
        )
    listed = {str(row.get("id")) for row in content["images"]}
    owned = owned_annotations(rows, image_of, listed, {None if k is None else k - shift: v for k, v in category_of.items()})
    annotations, faulty = usable_annotations(owned, images, written.layout, Ids(rows))
    for row, image, code, message in faulty:
        file = location.file.name if image is None else images[image]["file_name"]
        findings.append(Finding(code, location.split, file, row.get("id"), message))
    return Clean(images, annotations, categories, ground_truth_of(owned), [*misread, *findings], misread, written.layout)


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


def _printable(name: str) -> str:
    """A name that can be drawn and written: control characters and halves of characters become �, any space a space."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in name)
