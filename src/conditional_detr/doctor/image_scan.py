"""Scan the images of a data set: whether they can be read, their sizes, and hashes to find duplicates."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from conditional_detr.device.threads import usable_cores
from conditional_detr.errors import ImageError
from conditional_detr.images.decoding import decode
from conditional_detr.images.file_types import open_image
from conditional_detr.images.header import ORIENTATION
from conditional_detr.inference.progress import Track, untracked

HASH_SIDE = 16  # the difference hash has 16 × 16 bits
SURE_STEP = 4.0  # minimum difference of the grey levels (0 to 255) of two cells for a reliable bit
THUMBNAIL_SIDE = 32  # px
# Largest difference of near duplicates: number of bits (of 256), and mean difference of grey levels (0 to 255). Copies in
# another size or compression differ less. Neighbouring frames of a video differ more.
NEAR_BITS, NEAR_GRAY = 8, 6.0
FLAT = 6.0  # images whose grey levels (0 to 255) have a lower standard deviation are too uniform to be compared


class ImageScan(NamedTuple):
    """Result of scanning an image.

    Attributes
    ----------
    fault : the reason why the image cannot be read, or None
    width, height : px, after EXIF rotation
    orientation : EXIF orientation; 1 = not rotated
    digest : SHA-256 hash of the file
    bits : uint64 [4], difference hash: for each cell, whether its right neighbour is brighter
    sure : uint64 [4], which of these bits are reliable, because the difference is large enough
    thumbnail : uint8 [32, 32], grey levels
    """

    fault: str | None
    width: int = 0
    height: int = 0
    orientation: int = 1
    digest: bytes = b""
    bits: np.ndarray = np.zeros(4, np.uint64)
    sure: np.ndarray = np.zeros(4, np.uint64)
    thumbnail: np.ndarray = np.zeros((THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)


def scan_images(paths: Sequence[str], track: Track = untracked) -> list[ImageScan]:
    """Scan images in parallel, on all cores."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(track(pool.map(scan_image, paths), len(paths), "checking images"))


def scan_image(path: str) -> ImageScan:
    """Decode an image completely and scan it."""
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
        with open_image(path) as opened:
            return int(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow may raise any error; the pixels were decoded, so the image is readable
        return 1


def near_pairs(left: Sequence[ImageScan], right: Sequence[ImageScan]) -> list[tuple[int, int]]:
    """Pairs (i, j) of images that look the same. Each image of `left` is paired with the first match in `right`."""
    a, b = (_known(side) for side in (left, right))
    if not a or not b:
        return []
    right_bits, right_sure = (np.stack([getattr(right[j], name) for j in b]) for name in ("bits", "sure"))
    right_small = np.stack([right[j].thumbnail for j in b]).astype(np.int16)
    return [(i, b[near[0]]) for i in a if len(near := _near(left[i], right_bits, right_sure, right_small))]


def _near(scan: ImageScan, bits: np.ndarray, sure: np.ndarray, small: np.ndarray) -> np.ndarray:
    """The rows of `bits`, `sure` and `small` (thumbnails) that look the same as an image."""
    close = np.flatnonzero(np.bitwise_count((bits ^ scan.bits) & sure & scan.sure).sum(1) <= NEAR_BITS)
    same: np.ndarray = close[np.abs(small[close] - scan.thumbnail).mean((1, 2)) <= NEAR_GRAY]
    return same


def near_groups(scans: Sequence[ImageScan]) -> list[list[int]]:
    """Group images that look the same or are the same file.

    Groups are transitive: if A looks like B and B like C, all three are in one group.
    """
    group = list(range(len(scans)))
    first_of: dict[bytes, int] = {}
    for i, scan in enumerate(scans):
        _join(group, i, first_of.setdefault(scan.digest, i) if scan.fault is None else i)
    known = _known(scans)
    if known:
        bits, sure = (np.stack([getattr(scans[i], name) for i in known]) for name in ("bits", "sure"))
        small = np.stack([scans[i].thumbnail for i in known]).astype(np.int16)
        for place, i in enumerate(known):
            for k in _near(scans[i], bits[:place], sure[:place], small[:place]):
                _join(group, i, known[k])
    found: dict[int, list[int]] = {}
    for i in range(len(scans)):
        found.setdefault(_root(group, i), []).append(i)
    return list(found.values())


def _root(group: list[int], i: int) -> int:
    while group[i] != i:
        i = group[i]
    return i


def _join(group: list[int], i: int, j: int) -> None:
    group[_root(group, i)] = _root(group, j)


def _known(images: Sequence[ImageScan]) -> list[int]:
    return [i for i, scan in enumerate(images) if scan.fault is None and scan.thumbnail.std() >= FLAT]
