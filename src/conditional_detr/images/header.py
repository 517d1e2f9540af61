"""Read the size of an image from the file header, without decoding the image."""

import warnings
from pathlib import Path

from conditional_detr.images.file_types import open_image

ROTATED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
ORIENTATION = 274  # EXIF tag


def size_of(image: Path) -> tuple[int, int] | None:
    """Width and height of an image, px, after EXIF rotation. Reads only the file header. None if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(image) as opened:
                width, height = opened.size
                is_rotated = opened.getexif().get(ORIENTATION) in ROTATED
    except Exception:  # the codecs of Pillow raise many kinds of exceptions
        return None
    return (height, width) if is_rotated else (width, height)
