"""What the head of an image's file says, without decoding it."""

import warnings
from pathlib import Path

from PIL import Image

TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
ORIENTATION = 274


def size_of(image: Path) -> tuple[int, int] | None:
    """Width and height, px, after EXIF rotation, from the head of the file alone; None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(image) as opened:
                width, height = opened.size
                turned = opened.getexif().get(ORIENTATION) in TURNED
    except Exception:  # Pillow raises whatever its codecs do
        return None
    return (height, width) if turned else (width, height)
