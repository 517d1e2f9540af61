"""A look at every image of a data set: can it be read, how large is it, and is there another like it?"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from conditional_detr.device.threads import usable_cores
from conditional_detr.errors import ImageError
from conditional_detr.images.decoding import decode
from conditional_detr.images.header import ORIENTATION

HASH_SIDE = 16  # 256 bits
SURE_STEP = 4.0  # of 255
THUMBNAIL_SIDE = 32
NEAR_BITS, NEAR_GRAY = 8, 6.0  # of 256, of 255: copies in another size or compression; neighbours of a video differ more
FLAT = 6.0  # standard deviation of gray, of 255, below which an image has nothing to be known by


class ImageScan(NamedTuple):
    """What an image is.

    Attributes
    ----------
    fault : why it cannot be read, or None
    width, height : px, after EXIF rotation
    orientation : its EXIF tag; 1 = as it is stored
    digest : of the file's bytes
    bits, sure : uint64 [4], which neighbours are brighter, and by enough to be sure of it: a difference hash
    thumbnail : uint8 [32, 32], gray
    """

    fault: str | None
    width: int = 0
    height: int = 0
    orientation: int = 1
    digest: bytes = b""
    bits: np.ndarray = np.zeros(4, np.uint64)
    sure: np.ndarray = np.zeros(4, np.uint64)
    thumbnail: np.ndarray = np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)


def scan_images(paths: Sequence[str]) -> list[ImageScan]:
    """One each, on all cores."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(scan_image, paths))


def scan_image(path: str) -> ImageScan:
    """Read an image whole."""
    try:
        rgb = decode(path)
        digest = hashlib.sha256(Path(path).read_bytes()).digest()
    except (ImageError, OSError) as error:
        return ImageScan(str(error))
    gray = rgb.float().mean(0)[None, None]
    grid = F.interpolate(gray, (HASH_SIDE, HASH_SIDE + 1), mode="area")[0, 0]
    steps = (grid[:, 1:] - grid[:, :-1]).numpy()
    bits, sure = (np.packbits(flags).view(np.uint64) for flags in (steps > 0, np.abs(steps) > SURE_STEP))
    thumbnail = F.interpolate(gray, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), mode="area")[0, 0].round().to(torch.uint8).numpy()
    return ImageScan(None, rgb.shape[-1], rgb.shape[-2], _orientation(path), digest, bits, sure, thumbnail)


def _orientation(path: str) -> int:
    try:
        with Image.open(path) as opened:
            return int(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises whatever its codecs do; the image itself was read
        return 1


def near_pairs(left: Sequence[ImageScan], right: Sequence[ImageScan]) -> list[tuple[int, int]]:
    """Pairs (i, j) of images that look the same to the eye, for each of `left` the first of `right`."""
    a, b = (_known(side) for side in (left, right))
    if not a or not b:
        return []
    right_bits, right_sure = (np.stack([getattr(right[j], name) for j in b]) for name in ("bits", "sure"))
    right_small = np.stack([right[j].thumbnail for j in b]).astype(np.int16)
    pairs = []
    for i in a:
        distance = np.bitwise_count((right_bits ^ left[i].bits) & right_sure & left[i].sure).sum(1)
        for k in np.flatnonzero(distance <= NEAR_BITS):
            if np.abs(right_small[k] - left[i].thumbnail).mean() <= NEAR_GRAY:
                pairs.append((i, b[k]))
                break
    return pairs


def _known(images: Sequence[ImageScan]) -> list[int]:
    return [i for i, scan in enumerate(images) if scan.fault is None and scan.thumbnail.std() >= FLAT]
