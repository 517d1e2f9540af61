"""Shared by the readers of all formats: listing images, reading text files, faults, and building COCO content."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from conditional_detr.data.split_location import is_inside
from conditional_detr.errors import DataError
from conditional_detr.images.decoding import IMAGE_SUFFIXES
from conditional_detr.images.header import size_of


class Fault(NamedTuple):
    """A part of a data set that could not be read: the file, the reason, the fix, and the code and severity of the finding."""

    file: str
    message: str
    fix: str
    code: str = "box-not-finite"
    severity: str = ""


def text_of(file: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises
    ------
    DataError : the file cannot be read, or is not UTF-8
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from None


def is_file(path: Path) -> bool:
    """Whether the path is a file. False for an invalid path, for example one that is too long."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def listed_images(source: Path) -> list[Path]:
    """Images in a folder and its subfolders, or those listed in a text file: one path per line, relative to that file."""
    if source.is_dir():
        return sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return [source.parent / line.strip() for line in text_of(source).splitlines() if line.strip()]


def content_of(
    files: Iterable[Path],
    rows: Callable[[Path, int, int], list[dict[str, Any]]],
    categories: list[dict[str, Any]],
    root: Path,
    stated_size: Callable[[Path], tuple[int, int] | None] = lambda image: None,
) -> dict[str, Any]:
    """Build COCO content from images and their annotations.

    Parameters
    ----------
    files : paths of the images
    rows : function (image, width, height) → annotations with "category_id" and "bbox" (x, y, w, h, px)
    categories : dicts of "id" and "name"
    root : images outside this folder are not opened; a later check reports them
    stated_size : function image → width and height, px, according to the annotations, or None if they do not give it
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(files, 1):
        may_be_opened = "\0" not in str(image) and is_inside(image, root)
        # An image whose size cannot be read is reported later, when it is decoded.
        true_size = size_of(image) if may_be_opened and is_file(image) else None
        width, height = (stated_size(image) if true_size else None) or true_size or (1, 1)
        images.append({"id": number, "file_name": str(image), "width": width, "height": height})
        for row in rows(image, width, height) if true_size else []:
            w, h = row["bbox"][2:]
            annotations.append(row | {"id": len(annotations) + 1, "image_id": number, "area": w * h, "iscrowd": 0})
    return {"images": images, "annotations": annotations, "categories": categories}
