"""What readers share: pictures of a folder, their sizes, and the COCO content that they make of them."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from conditional_detr.data.clean import is_inside
from conditional_detr.errors import DataError
from conditional_detr.preprocessing import IMAGE_SUFFIXES

TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
ORIENTATION = 274


def listed_pictures(place: Path) -> list[Path]:
    """The pictures below a folder, or those that a text file lists, a path a line, relative to the file."""
    if place.is_dir():
        return sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{place} must be a folder of pictures or a list of them: {getattr(error, 'strerror', error)}"
        ) from None
    return [place.parent / line.strip() for line in lines if line.strip()]


def size_of(picture: Path) -> tuple[int, int] | None:
    """Width and height, px, after EXIF rotation, from the head of the file alone; None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(picture) as opened:
                width, height = opened.size
                turned = opened.getexif().get(ORIENTATION) in TURNED
    except Exception:  # Pillow raises whatever its codecs do
        return None
    return (height, width) if turned else (width, height)


def content_of(
    pictures: Iterable[Path],
    rows: Callable[[Path, int, int], list[dict[str, Any]]],
    categories: list[dict[str, Any]],
    root: Path,
) -> dict[str, Any]:
    """A COCO content.

    Parameters
    ----------
    pictures : files
    rows : (picture, its width, its height) → annotations with "category_id" and "bbox" x, y, w, h px
    categories : "id" and "name" each
    root : nothing outside of it is opened; it is judged later
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, 1):
        may_be_opened = "\0" not in str(picture) and is_inside(picture, root)
        width, height = (size_of(picture) if may_be_opened else None) or (1, 1)  # decoding finds what cannot be read
        images.append({"id": number, "file_name": str(picture), "width": width, "height": height})
        for row in rows(picture, width, height) if may_be_opened else []:
            w, h = row["bbox"][2:]
            annotations.append(row | {"id": len(annotations) + 1, "image_id": number, "area": w * h, "iscrowd": 0})
    return {"images": images, "annotations": annotations, "categories": categories}
