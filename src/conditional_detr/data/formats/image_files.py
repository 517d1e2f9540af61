"""What readers share: images of a folder, texts, what could not be read, and the COCO content that they make of it all."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from conditional_detr.data.split_location import is_inside
from conditional_detr.errors import DataError
from conditional_detr.images.decoding import IMAGE_SUFFIXES
from conditional_detr.images.header import size_of


class Fault(NamedTuple):
    """What could not be read: where, why, and what is done about it; the doctor's code for it."""

    file: str
    message: str
    fix: str
    code: str = "box-not-finite"
    severity: str = ""


def text_of(file: Path) -> str:
    """A text file, with or without a byte order mark.

    Raises
    ------
    DataError : it cannot be read, or is no UTF-8
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}") from None


def is_file(path: Path) -> bool:
    """Whether it is a file; what can be no path, as one that is too long, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def listed_images(source: Path) -> list[Path]:
    """The images below a folder, or those that a text file lists, a path a line, relative to the file."""
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
    """A COCO content.

    Parameters
    ----------
    files : of images
    rows : (image, its width, its height) → annotations with "category_id" and "bbox" x, y, w, h px
    categories : "id" and "name" each
    root : nothing outside of it is opened; it is judged later
    stated_size : image → the width and the height, px, that its annotations were made for, where they say it
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(files, 1):
        may_be_opened = "\0" not in str(image) and is_inside(image, root)
        true_size = (
            size_of(image) if may_be_opened and is_file(image) else None
        )  # what cannot be read is named when it is decoded
        width, height = (stated_size(image) if true_size else None) or true_size or (1, 1)
        images.append({"id": number, "file_name": str(image), "width": width, "height": height})
        for row in rows(image, width, height) if true_size else []:
            w, h = row["bbox"][2:]
            annotations.append(row | {"id": len(annotations) + 1, "image_id": number, "area": w * h, "iscrowd": 0})
    return {"images": images, "annotations": annotations, "categories": categories}
