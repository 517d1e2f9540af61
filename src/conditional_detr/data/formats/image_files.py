"""Functions that several readers share: list images, read text files, report faults, and build COCO content."""

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from conditional_detr.data.file_lookup import FileLookup, folded, printable_path, spellings, stem_of
from conditional_detr.data.findings import RULES
from conditional_detr.data.splits.location import SplitLocation
from conditional_detr.data.text import text_of
from conditional_detr.errors import shortened_list
from conditional_detr.images.file_types import describe_unsupported, folder_contents, is_note, is_visible_in_list
from conditional_detr.images.header import size_of


class Fault(NamedTuple):
    """A part of a data set that could not be read: the file, the reason, the fix, and the code and severity of the finding."""

    file: str
    message: str
    fix: str
    code: str = "box-not-finite"
    severity: str = ""


def is_file(path: Path) -> bool:
    """Whether the path is a file. False for an invalid path, for example one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def images_of(names: Iterable[str], lookup: FileLookup, list_file: Path, faults: list[Fault]) -> list[Path]:
    """Return the files for the names in a list. A name that matches several files is a fault. Hidden files are ignored."""
    found = []
    for name in names:
        if not is_visible_in_list(name):
            continue
        path = lookup.path_of(name)
        if name in lookup.ambiguous:
            several = shortened_list(map(printable_path, lookup.ambiguous[name]))
            faults.append(
                Fault(name, f"does not exist, and several files match: {several}", "the image is left out", "image-missing")
            )
        else:
            found.append(path)
    if lookup.respelled:
        faults.append(Fault(str(list_file), *lookup.summary(), "image-spelling"))
    return found


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file without surrounding blanks. Empty lines are left out."""
    return [line.strip() for line in text_of(file).splitlines() if line.strip()]


def unsupported_files(folder: Path, others: Iterable[Path]) -> list[Fault]:
    """Return one fault for all files of a folder that are neither images nor labels or notes."""
    odd = [file for file in others if not is_note(file)]
    if not odd:
        return []
    message = f"{describe_unsupported(odd)}, e.g. {odd[0]}"
    return [Fault(str(folder), message, RULES["image-format"].fix, "image-format")]


def unlisted_images(folders: Iterable[Path], names: Iterable[str], used: Iterable[Path] = ()) -> list[Fault]:
    """One fault for each folder with images that no list or annotation file names.

    Names are compared without folders and suffixes, so that a mask of an image is not taken for another image.

    Parameters
    ----------
    folders : searched with their subfolders; those that lie in another one are not searched again
    names : names or paths of the listed images, of all splits that share the folders
    used : folders that are splits themselves; their images are all used
    """
    names, folders, used = list(names), set(folders), list(used)
    known = {_stem(name) for name in names}
    is_complete, faults = False, []
    for folder in sorted(folder for folder in folders if folders.isdisjoint(folder.parents)):
        images = [image for image in folder_contents(folder).images if not any(map(image.is_relative_to, used))]
        left = [image for image in images if folded(image.stem) not in known]
        if left and not is_complete:
            known |= {_stem(spelling) for name in names for spelling in spellings(name)}
            is_complete = True
            left = [image for image in left if folded(image.stem) not in known]
        if left:
            count = "1 image is" if len(left) == 1 else f"{len(left)} images are"
            text = f"{count} in the folder but not in the annotations, and not used, e.g. {printable_path(left[0])}"
            faults.append(Fault(str(folder), text, RULES["image-unlisted"].fix, "image-unlisted"))
    return faults


def _stem(name: str) -> str:
    return folded(stem_of(PurePosixPath(name.replace("\\", "/")).name))


def content_of(
    files: Iterable[Path],
    rows: Callable[[Path, int, int], list[dict[str, Any]] | None],
    categories: list[dict[str, Any]],
    location: SplitLocation,
    stated_size: Callable[[Path], tuple[int, int] | None] = lambda image: None,
) -> dict[str, Any]:
    """Build COCO content from images and their annotations.

    Parameters
    ----------
    files : paths of the images
    rows : function (image, width, height) → annotations with "category_id" and "bbox" (x, y, w, h, px), or None if they cannot
        be read. Then the image is left out
    categories : dicts of "id" and "name"
    location : location of the split. Images outside it are not opened, and reported by a later check
    stated_size : function image → width and height, px, according to the annotations, or None if they do not give it
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(files, 1):
        may_be_opened = "\0" not in str(image) and location.contains(image)
        # An image whose size cannot be read is reported later, when it is decoded.
        true_size = size_of(image) if may_be_opened and is_file(image) else None
        width, height = (stated_size(image) if true_size else None) or true_size or (1, 1)
        found = rows(image, width, height) if true_size else []
        if found is None:
            continue
        images.append({"id": number, "file_name": str(image), "width": width, "height": height})
        for row in found:
            w, h = row["bbox"][2:]
            annotations.append(row | {"id": len(annotations) + 1, "image_id": number, "area": w * h, "iscrowd": 0})
    return {"images": images, "annotations": annotations, "categories": categories}
