"""Decode a file, a URL, a PIL image or an array to RGB pixels."""

import http.client
import io
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from conditional_detr.errors import ImageError
from conditional_detr.images.file_types import IMAGE_FORMATS, open_image

if TYPE_CHECKING:
    from torch import Tensor

ImageInput = str | Path | Image.Image | np.ndarray
FETCH_SECONDS, FETCH_BYTES = 15.0, 64 * 2**20  # timeout and maximum size of a download
MAX_PIXELS = 178_956_970  # Pillow's limit, which protects against decompression bombs


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


def decode_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode the content of an image file, like `decode_array`.

    Parameters
    ----------
    data : content of the file
    name : what to call it in messages
    max_pixels : largest number of pixels of all frames together, known before they are decoded
    """
    if not data:
        raise ImageError(f"{name} is an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image(io.BytesIO(data)) as opened:
                _check_pixels(opened, name, max_pixels)
                return _to_rgb(opened, name)
    except ImageError:
        raise
    except Exception as error:  # the codecs of Pillow raise many kinds of exceptions
        unknown = f"unknown image format (supported: {', '.join(sorted(IMAGE_FORMATS))})"
        reason = unknown if "cannot identify" in str(error) else str(error)
        raise ImageError(f"{name} cannot be read as an image: {reason}") from None


def _check_pixels(image: Image.Image, name: str, max_pixels: int) -> None:
    """Check the size that the header states. Frames count only below Pillow's limit, which protects the memory of one image."""
    frames = getattr(image, "n_frames", 1) if max_pixels < MAX_PIXELS else 1
    if image.width * image.height * frames > max_pixels:
        of = f" in {frames} frames" if frames > 1 else ""
        raise ImageError(f"{name} must not have more than {max_pixels} pixels: it has {image.width} x {image.height}{of}")


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
    _check_pixels(image, name, MAX_PIXELS)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 or more bits per channel, or floating-point values
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        if image.mode == "F" and values.max(initial=0) <= 1:
            values = values * 255
        elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
            values = values / 257
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return np.array(image.convert("RGB"))
