"""Check the annotations of a split: keep what is usable and report the rest. Used by training, `doctor` and `doctor --fix`."""

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
    image_key,
    image_numbers,
    owned_annotations,
    usable_annotations,
)
from conditional_detr.data.box_format import COCO
from conditional_detr.data.file_lookup import FileLookup, shown
from conditional_detr.data.findings import ERROR, WARNING, Finding
from conditional_detr.data.split_location import SplitLocation
from conditional_detr.errors import DataError, shortened_list
from conditional_detr.images.header import size_of


@dataclass(frozen=True)
class Category:
    """A class of a data set: its category id and name."""

    id: int
    name: str


class Clean(NamedTuple):
    """The usable part of a split, and its faults.

    Attributes
    ----------
    images : dicts of "id" (an integer), "written_id" (the id as in the file), "file_name", "path", "width" and "height" (px)
    annotations : the annotations of the file with these fields set: a unique "id", "image" (position in `images`),
        "category_id" (an id of `categories`), "bbox" (x, y, w, h, px, inside the image) and "written" (the box as in the file)
    categories : ordered by id
    ground_truth_rows : ground truth for evaluation, one row per box of a listed category in `images`, also for boxes that
        are left out of `annotations`: position of the image, category id, x, y, w, h (px), area (px²), 1 for a crowd
    findings : all faults
    misread : findings about the format of all boxes or ids. The fix is a guess, so training refuses such a split
    layout : how the boxes are written, see `BoxFormat.layout`
    """

    images: list[Row]
    annotations: list[Row]
    categories: list[Category]
    ground_truth_rows: list[tuple[float, ...]]
    findings: list[Finding]
    misread: list[Finding]
    layout: str


def clean(content: dict[str, Any], location: SplitLocation, elsewhere: str = COCO) -> Clean:
    """Check every image and annotation of COCO content. What cannot be used is left out and reported as a finding.

    Image files must exist. They are opened only to read their size, if the content does not give it.

    Parameters
    ----------
    content : dict of "images", "annotations" and "categories"
    location : where the content was read from
    elsewhere : box layout of another split of the data set

    Raises
    ------
    DataError : a category without an integer id or a name; no categories
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
            Finding("box-format", location.split, location.file.name, None, written.message, fix="the boxes are clipped")
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
    """The categories ordered by id, and a mapping from each id in the file to the id that its boxes get."""
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
        raise DataError(f"{location.file} has no categories")
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
) -> tuple[list[Row], dict[int | str | None, int | None]]:
    """The usable images, and for each image id the position of its image (None if it is left out)."""
    images: list[Row] = []
    image_of: dict[int | str | None, int | None] = {}
    first_of: dict[str, int] = {}
    files_of: dict[int | str | None, set[str]] = {}
    for row in rows:
        files_of.setdefault(image_key(row.get("id")), set()).add(str(row.get("file_name")))
    numbers = image_numbers(files_of)
    lookup = FileLookup(location.images, location.root, location.split)
    for number, row in enumerate(rows):
        id_, name = image_key(row.get("id")), row.get("file_name")
        file = str(name) if isinstance(name, str | int) and str(name) else f"image {number} of {location.file.name}"
        path = location.images / file if location.resolved else lookup.path_of(file)
        size = as_id(row.get("width")) or 0, as_id(row.get("height")) or 0
        fault = _image_fault(row, file, path, location, lookup.several.get(file))
        if fault is None and len(files_of[id_]) > 1:
            text = f"has the same image id {id_} as another image: it is unknown which of them the boxes belong to"
            fault = Finding("image-duplicate", location.split, file, None, text, ERROR, "all images with this id are left out")
        elif fault is None and str(path) in first_of:
            fault = Finding("image-duplicate", location.split, file, None, "is listed twice; its boxes go to the first entry")
            image_of[id_] = first_of[str(path)]
        elif fault is None and min(size) < 1:
            size = size_of(path) or (0, 0)
            text = f"has no size in {location.file.name}"
            if min(size) < 1:
                fault = Finding("image-unreadable", location.split, file, None, f"{text}, and the image file cannot be read")
            else:
                findings.append(Finding("image-size", location.split, file, None, text, WARNING, "the file's own size is used"))
        if fault:
            findings.append(fault)
            image_of.setdefault(id_, None)
            continue
        image_of[id_] = first_of[str(path)] = len(images)
        written = row["id"] if isinstance(row["id"], str) or numbers[id_] != row["id"] else numbers[id_]
        images.append(
            {
                "id": numbers[id_],
                "written_id": written,
                "file_name": file,
                "path": str(path),
                "width": size[0],
                "height": size[1],
            }
        )
    if lookup.respelled:
        text, fix = lookup.summary()
        findings.append(Finding("image-spelling", location.split, location.file.name, None, text, fix=fix))
    return images, image_of


def _image_fault(row: Row, file: str, path: Path, location: SplitLocation, several: list[Path] | None) -> Finding | None:
    """The fault that makes an image unusable, or None. The file is not opened. `several`: files that its name may mean."""

    def fault(code: str, message: str) -> Finding:
        return Finding(code, location.split, file, None, message)

    name = row.get("file_name")
    if image_key(row.get("id")) is None or not isinstance(name, str | int) or not str(name):
        return fault(
            "image-missing", f"an image must have an 'id' (a whole number or a text) and a 'file_name', not {str(row)[:120]}"
        )
    if several:
        return fault("image-missing", f"is not there, and several files fit: {shortened_list(map(shown, several))}")
    if "\0" in file or not location.contains(path):
        return fault("image-outside-folder", f"{file!r} lies outside the data set's folder {location.root} and is not read")
    try:
        size = path.stat().st_size
    except OSError as error:
        return fault("image-missing", f"cannot be opened: {error.strerror or error}")
    if not path.is_file():
        return fault("image-missing", "is not a file")
    return None if size else fault("image-empty-file", "is an empty file")


def _printable(name: str) -> str:
    """A printable name. Unprintable characters and lone surrogates become �, white space becomes a space."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in name)
