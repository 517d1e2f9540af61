"""Decode a file, a URL, a PIL image or an array to RGB pixels."""

import http.client
import io
import urllib.request
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from conditional_detr.errors import ImageError
from conditional_detr.images.bounds import BOUNDED_FORMATS, check_bounds, check_parts
from conditional_detr.images.file_types import IMAGE_FORMATS, open_image
from conditional_detr.images.header import ORIENTATION

if TYPE_CHECKING:
    from torch import Tensor

ImageInput = str | Path | Image.Image | np.ndarray
FETCH_SECONDS, FETCH_BYTES = 15.0, 64 * 2**20  # timeout and maximum size of a download
MAX_PIXELS = 178_956_970  # Pillow's limit, which protects against decompression bombs
BLOCK_PIXELS = 4_000_000  # pixels that are converted at a time


def decode(image: ImageInput) -> "Tensor":
    """Decode an image to a tensor, uint8 RGB [3, H, W]. See `decode_array`."""
    import torch

    return torch.from_numpy(decode_array(image)).permute(2, 0, 1)


def decode_array(image: ImageInput) -> np.ndarray:
    """Decode an image to uint8 RGB [H, W, 3], rotated according to its EXIF orientation.

    Greyscale, palette, 16-bit, CMYK and transparent images are converted to RGB. Of an animation, the first frame is used.

    Raises
    ------
    ImageError : the image cannot be read; the message contains its file name
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ImageError(f"an array must be a uint8 RGB image [H, W, 3], not {image.dtype} {list(image.shape)}")
        return np.array(image)
    if isinstance(image, Image.Image):
        if image.format not in (None, *IMAGE_FORMATS):  # None: made in memory. To decode EPS, Pillow would start Ghostscript
            known = f"known: {', '.join(sorted(IMAGE_FORMATS))}"
            raise ImageError(f"a PIL image of the format {image.format} is not decoded ({known}); pass image.convert('RGB')")
        try:
            return _to_rgb(image, "a PIL image")
        except (OSError, SyntaxError, ValueError) as error:  # Pillow reads files lazily, so reading may fail here
            raise error if isinstance(error, ImageError) else ImageError(f"a PIL image cannot be read: {error}") from None
    if not isinstance(image, str | Path):
        raise ImageError(f"an image must be a path, a PIL image or an array, not {type(image).__name__}")
    return decode_bytes(_fetch(str(image)) if is_url(image) else _read(Path(image)), str(image))


def decode_bytes(data: bytes, name: str, max_pixels: int | None = None) -> np.ndarray:
    """Decode the content of an image file, like `decode_array`.

    Parameters
    ----------
    data : content of the file
    name : what to call it in messages
    max_pixels : largest number of pixels of all frames together, known before they are decoded; see `check_bounds`. The file
        must then have one of `BOUNDED_FORMATS`. None: the file is trusted, up to Pillow's limit for its first frame
    """
    if not data:
        raise ImageError(f"{name} is an empty file")
    formats = IMAGE_FORMATS if max_pixels is None else BOUNDED_FORMATS
    if max_pixels is not None:
        check_parts(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(io.BytesIO(data), formats) as opened:
                if max_pixels is not None:
                    check_bounds(opened, data, name, max_pixels)
                return _to_rgb(opened, name)
    except ImageError:
        raise
    except Exception as error:  # the codecs of Pillow raise many kinds of exceptions
        raise ImageError(f"{name} cannot be read as an image: {_reason(error, formats)}") from None


def _reason(error: Exception, formats: Sequence[str]) -> str:
    """Why an image cannot be decoded. What Pillow raises on purpose says it; other exceptions come from damaged data."""
    text = str(error)
    if "cannot identify" in text:
        return f"unknown image format (supported: {', '.join(sorted(formats))})"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    is_meant = isinstance(error, OSError | SyntaxError | Image.DecompressionBombError) and "error -" not in text
    return text if text and is_meant else "its data is damaged"


def is_url(image: str | Path) -> bool:
    """Whether an image is given as an HTTP or HTTPS URL."""
    return isinstance(image, str) and image.startswith(("http://", "https://"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be opened: {error.strerror or error}") from None


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as answer:
            data: bytes = answer.read(FETCH_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImageError(f"{url} cannot be fetched: {getattr(error, 'reason', None) or error}") from None
    if len(data) > FETCH_BYTES:
        raise ImageError(f"{url} must not be larger than {FETCH_BYTES // 2**20} MiB")
    return data


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width} x {image.height}"
        raise ImageError(f"{name} must not have more than {MAX_PIXELS} pixels: it has {size}")
    image.load()
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    rows = max(1, BLOCK_PIXELS // max(1, image.width))  # a large image takes several times its size if it is converted at once
    blocks = [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    scale = _scale(image, blocks)
    for block in blocks:
        part = image.crop(block) if len(blocks) > 1 else image
        if scale is not None:
            part = Image.fromarray((_values(part) * scale[0] / scale[1]).clip(0, 255).astype(np.uint8))
        rgb[block[1] : block[3]] = np.asarray(part if part.mode == "RGB" else part.convert("RGB"))
    return rgb


def _scale(image: Image.Image, blocks: list[tuple[int, int, int, int]]) -> tuple[int, int] | None:
    """Fraction that maps 16 or more bits per channel, or floating-point values, to 8 bits; None for other images."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return None
    highest = max(_values(image.crop(block)).max(initial=0) for block in blocks)
    if image.mode == "F" and highest <= 1:
        return 255, 1
    return 1, 257 if image.mode.startswith("I;16") or highest > 255 else 1


def _values(image: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(image, dtype=np.float64))
