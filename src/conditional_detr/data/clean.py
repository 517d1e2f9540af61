"""Check the annotations of a split: keep the usable ones and report the others. Training and `doctor` use this."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from conditional_detr.data.annotations import (
    MARKS,
    Ids,
    Owned,
    Row,
    as_id,
    box_format_of,
    ground_truth_of,
    image_key,
    image_numbers,
    mark_of,
    owned_annotations,
    printable,
    unmarked,
    usable_annotations,
)
from conditional_detr.data.box_format import COCO, FEW
from conditional_detr.data.file_lookup import FileLookup, printable_path
from conditional_detr.data.findings import ERROR, LOSES_BOX, WARNING, Finding
from conditional_detr.data.splits.conventions import MIN_MARKED_TO_REPORT, Conventions, category_shift, conventions_of, ids_of
from conditional_detr.data.splits.labelled import (
    Unreadable,
    labelled_categories,
    lists_are_shifted,
    misspelt_field,
    shifted,
    union,
)
from conditional_detr.data.splits.location import SplitLocation
from conditional_detr.data.splits.summary import Summary, summary_of
from conditional_detr.errors import DataError, shortened_list
from conditional_detr.images.header import size_of

MANY_UNLABELLED = 0.1  # fraction of the boxes from which on the lists of labelled categories are probably wrong


@dataclass(frozen=True)
class Category:
    """A class of a data set: its category id and name."""

    id: int
    name: str


class Clean(NamedTuple):
    """The usable images and annotations of a split, and its faults.

    Attributes
    ----------
    images : dicts of "id" (an integer), "written_id" (the id as in the file), "file_name", "path", "width" and "height" (px),
        and "labelled": the set of the category ids that are labelled in the image; None = all
    annotations : the annotations of the file with these fields set: a unique "id", "image" (position in `images`),
        "category_id" (an id of `categories`), "bbox" (x, y, w, h, px, inside the image) and "written" (the box as in the file)
    categories : ordered by id
    ground_truth_rows : ground truth for evaluation, one row per box of a labelled category in `images`, also for boxes that
        are left out of `annotations`: position of the image, category id, x, y, w, h (px), area (px²), 1 for a crowd
    findings : all faults
    misread : findings about the format of all boxes or all category ids. Their fix may be wrong, so training refuses the split
    layout : format of the boxes, see `BoxFormat.layout`
    left_out : number of boxes that training does not use, by reason
    """

    images: list[Row]
    annotations: list[Row]
    categories: list[Category]
    ground_truth_rows: list[tuple[float, ...]]
    findings: list[Finding]
    misread: list[Finding]
    layout: str
    left_out: dict[str, int]


def clean(content: dict[str, Any], location: SplitLocation, conventions: Conventions | None = None) -> Clean:
    """Check every image and annotation of COCO content. Unusable ones are left out and reported as findings.

    Image files must exist. They are opened only if the content does not give their size.

    Parameters
    ----------
    content : dict with the lists "images", "annotations" and "categories"
    location : where the content was read from
    conventions : conventions of all splits of the data set; None = detected from this content alone

    Raises
    ------
    DataError : a category without an integer id or a name; no categories
    """
    conventions = conventions or conventions_of([content])
    findings: list[Finding] = []
    categories, category_of = categories_of(content["categories"], location, findings)
    rows = content["annotations"]
    shift = conventions.shift or category_shift([content])
    own_shift = shift if lists_are_shifted(content, shift) else 0
    images, image_of = _images(content["images"], location, shifted(category_of, own_shift), findings)
    written = box_format_of(rows, images, image_of, conventions.layout)
    misread = [_shift_finding(content, location, shift)] if shift and rows else []
    if written.message and written.layout != COCO:
        misread = [*misread, Finding("box-format", location.split, location.file.name, None, written.message)]
    elif written.message:
        findings.append(
            Finding("box-format", location.split, location.file.name, None, written.message, fix="the boxes are clipped")
        )
    if misspelt := misspelt_field(content):
        findings.append(Finding("labelled-categories", location.split, location.file.name, None, misspelt))
    listed = {str(row.get("id")) for row in content["images"]}
    owned = owned_annotations(rows, image_of, listed, shifted(category_of, shift))
    name_of = {category.id: category.name for category in categories}
    findings += _mark_findings(owned, name_of, conventions, location)
    owned = [_as_object(each, name_of, conventions) for each in owned]
    annotations, faulty = usable_annotations(owned, images, written.layout, Ids(rows))
    for row, image, code, message in faulty:
        file = location.file.name if image is None else images[image]["file_name"]
        findings.append(Finding(code, location.split, file, row.get("id"), message))
    left_out = Counter(code for *_, code, _ in faulty if code in LOSES_BOX)
    if left_out["box-unlabelled"] > max(FEW, MANY_UNLABELLED * len(rows)):
        misread = [*misread, _lists_finding(left_out["box-unlabelled"], len(rows), location)]
    left_out.update(f"marked as {mark}" for row in annotations if (mark := mark_of(row)) is not None)
    left_out.update({"in images that are left out": len(rows) - len(owned)})
    return Clean(
        images,
        annotations,
        categories,
        ground_truth_of(owned, images),
        [*misread, *findings],
        misread,
        written.layout,
        +left_out,
    )


def _shift_finding(content: dict[str, Any], location: SplitLocation, shift: int) -> Finding:
    """Return the finding about category ids that are off by one."""
    listed, used = ids_of(content)
    unknown = {id_: count for id_, count in used.items() if id_ not in listed}
    known = "all ids are known" if all(id_ + shift in listed for id_ in used) else "more ids are known and none is lost"
    text = (
        f"the category ids of the annotations are off by one: {sum(unknown.values())} of {used.total()} annotations have an id "
        f"that is not listed ({shortened_list(map(str, sorted(unknown)), 5) or 'found in another split'}); listed are "
        f"{shortened_list(map(str, sorted(listed)), 10)}. With {shift:+d} added, {known}: one list counts from 0, the other "
        "from 1. If that is not so, add the missing category to the list, or remove these annotations"
    )
    return Finding("category-unknown", location.split, location.file.name, None, text, fix=f"{shift:+d} is added to all ids")


def _lists_finding(wrong: int, boxes: int, location: SplitLocation) -> Finding:
    """Return the finding about lists of labelled categories that many boxes contradict."""
    text = (
        f"{wrong} of {boxes} boxes have a category that labelled_category_ids of their image does not list, so these lists are "
        "probably wrong: they must contain the ids of all categories that are labelled in the image"
    )
    return Finding(
        "box-unlabelled", location.split, location.file.name, None, text, fix="the boxes are left out; better correct the lists"
    )


def _as_object(owned: Owned, name_of: dict[int, str], conventions: Conventions) -> Owned:
    mark = mark_of(owned.row)
    if mark is None or owned.category is None or (mark, name_of[owned.category]) not in conventions.objects:
        return owned
    return owned._replace(row=unmarked(owned.row))


def _mark_findings(
    owned: list[Owned], name_of: dict[int, str], conventions: Conventions, location: SplitLocation
) -> list[Finding]:
    """Return findings about annotations marked as crowd, difficult or ignore, for classes with many of them."""
    known = [(name_of[each.category], mark_of(each.row)) for each in owned if each.category is not None]
    every, marked = Counter(name for name, _ in known), Counter(pair for pair in known if pair[1] is not None)
    findings = []
    for key, mark in MARKS.items():
        counts = {name: count for (name, each), count in marked.items() if each == mark}
        taken = {name: count for name, count in counts.items() if (mark, name) in conventions.objects}
        many = {
            name: n for name, n in counts.items() if name not in taken and n >= max(FEW, MIN_MARKED_TO_REPORT * every[name])
        }
        for some, fix in ((taken, "the boxes are used as ordinary objects"), (many, "")):
            if some:
                of, number = sum(every[name] for name in some), sum(some.values())
                classes = f"{'class' if len(some) == 1 else 'classes'} {shortened_list(sorted(some), 5)}"
                text = f"{number} of {of} boxes of the {classes} are marked as {mark} ({key})"
                text += ", so the mark does not distinguish them from ordinary objects" if fix else ""
                findings.append(Finding("box-marked", location.split, location.file.name, None, text, fix=fix))
    return findings


def categories_of(
    rows: list[Row], location: SplitLocation, findings: list[Finding] | None = None
) -> tuple[list[Category], dict[int | None, int]]:
    """Return the categories ordered by id, and a mapping from each id in the file to the id that its boxes get."""
    findings = [] if findings is None else findings
    by_id: dict[int, str] = {}
    for row in rows:
        id_, name = as_id(row.get("id")), row.get("name")
        if id_ is None or not isinstance(name, str | int | float):
            raise DataError(f"{location.file}: each category must have an integer 'id' and a 'name', not {str(row)[:120]}")
        name = printable(str(name))
        if id_ in by_id:
            text = f"the category id {id_} is used twice: {by_id[id_]!r}, {name!r}"
            findings.append(Finding("category-duplicate", location.split, location.file.name, None, text))
        by_id.setdefault(id_, name)
    if not by_id:
        raise DataError(f"{location.file} has no categories: its list 'categories' must have at least one entry")
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
    rows: list[Row], location: SplitLocation, category_of: dict[int | None, int], findings: list[Finding]
) -> tuple[list[Row], dict[int | str | None, int | None]]:
    """Return the usable images, and for each image id the position of its image (None if it is left out)."""
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
        fault = _image_fault(row, file, path, location, lookup.ambiguous.get(file))
        if fault is None and len(files_of[id_]) > 1:
            text = f"has the same image id {id_} as another image, so its boxes cannot be assigned to one of them"
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
                findings.append(
                    Finding("image-size", location.split, file, None, text, WARNING, "the size in the image file is used")
                )
        labelled, unreadable = _labelled(row, category_of, location, file, None if fault else findings)
        fault = fault or unreadable
        if str(path) in first_of and unreadable is None:
            first = images[first_of[str(path)]]
            first["labelled"] = union(first["labelled"], labelled)
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
                "labelled": labelled,
            }
        )
    if lookup.respelled:
        text, fix = lookup.summary()
        findings.append(Finding("image-spelling", location.split, location.file.name, None, text, fix=fix))
    return images, image_of


def _labelled(
    row: Row, category_of: dict[int | None, int], location: SplitLocation, file: str, findings: list[Finding] | None
) -> tuple[frozenset[int] | None, Finding | None]:
    """Return the categories that are labelled in an image, and its fault if that cannot be read. Oddities become findings."""
    try:
        labelled, odd = labelled_categories(row, category_of)
    except Unreadable as error:
        return None, Finding("image-categories", location.split, file, None, str(error))
    if odd and findings is not None:
        findings.append(Finding("labelled-categories", location.split, file, None, odd))
    return labelled, None


def _image_fault(row: Row, file: str, path: Path, location: SplitLocation, several: list[Path] | None) -> Finding | None:
    """Return the fault that makes an image unusable, or None. The file is not opened. `several`: files that match its name."""

    def fault(code: str, message: str) -> Finding:
        return Finding(code, location.split, file, None, message)

    name = row.get("file_name")
    if image_key(row.get("id")) is None or not isinstance(name, str | int) or not str(name):
        return fault(
            "image-missing", f"an image must have an 'id' (an integer or a string) and a 'file_name', not {str(row)[:120]}"
        )
    if several:
        return fault(
            "image-missing", f"does not exist, and several files match: {shortened_list(map(printable_path, several))}"
        )
    if "\0" in file or not location.contains(path):
        return fault("image-outside-folder", f"{file!r} lies outside the data set's folder {location.root} and is not read")
    try:
        size = path.stat().st_size
    except OSError as error:
        return fault("image-missing", f"cannot be opened: {error.strerror or error}")
    if not path.is_file():
        return fault("image-missing", "is not a file")
    return None if size else fault("image-empty-file", "is an empty file")


def summary(found: Clean, faults: Iterable[Finding] = ()) -> Summary:
    """Count the images and boxes of a split, and the boxes that training leaves out.

    `faults` are findings of the reader. Boxes that it could not read are counted as left out too.
    """
    unread = sum(fault.code == "box-not-finite" for fault in faults)
    rows = [row for row in found.annotations if mark_of(row) is None]
    label_of = {category.id: label for label, category in enumerate(found.categories)}
    return summary_of(
        len(found.images),
        [row["image"] for row in rows],
        [label_of[row["category_id"]] for row in rows],
        [category.name for category in found.categories],
        found.left_out | ({"unreadable": unread} if unread else {}),
        sum(image["labelled"] is not None for image in found.images),
    )
