"""Read the size of an image from the header of its file, without decoding the image."""

import warnings
from pathlib import Path

from conditional_detr.images.file_types import open_image

TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
ORIENTATION = 274


def size_of(image: Path) -> tuple[int, int] | None:
    """Width and height of an image, px, after EXIF rotation. Reads only the file header. None if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(image) as opened:
                width, height = opened.size
                turned = opened.getexif().get(ORIENTATION) in TURNED
    except Exception:  # the codecs of Pillow raise many kinds of exceptions
        return None
    return (height, width) if turned else (width, height)
