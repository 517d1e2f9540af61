"""Cut large images into overlapping tiles, and merge what is found in them."""

from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.errors import ConfigError

Record = dict[str, np.ndarray]  # detections of an image, see `postprocess`
AT_BORDER = 0.01  # share of a tile's side: boxes that end closer to a cut continue in the next tile
SMALLEST_TILE, LARGEST_OVERLAP = 32, 0.9  # px, and share of the side
SAME_OBJECT = 0.6  # share of the smaller of two boxes from different tiles: above it, both show the same object


class Tiling(NamedTuple):
    """How images are cut: side of a tile in px of the image, 0 = not at all; and least overlap as a share of the side."""

    size: int = 0
    overlap: float = 0.2


def tiling_of(config: PreprocessorConfig, tile: int | None = None, overlap: float | None = None) -> Tiling:
    """The tiling of a model, with other values where they are given.

    Raises
    ------
    ConfigError : a value is out of range
    """
    size, share = config.tile if tile is None else tile, config.overlap if overlap is None else overlap
    if size and size < SMALLEST_TILE:
        raise ConfigError(f"tile must be 0 (whole images) or at least {SMALLEST_TILE} px, not {size}")
    if not 0 <= share <= LARGEST_OVERLAP:
        raise ConfigError(f"overlap must be in [0, {LARGEST_OVERLAP}], not {share}")
    return Tiling(size, share)


class Window(NamedTuple):
    """A part of an image, px."""

    left: int
    top: int
    right: int
    bottom: int

    def of(self, rgb: np.ndarray) -> np.ndarray:
        """The pixels of the window, [h, w, 3]."""
        return rgb[self.top : self.bottom, self.left : self.right]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.bottom - self.top, self.right - self.left


def windows(height: int, width: int, tiling: Tiling) -> list[Window]:
    """Parts of an image in which objects are searched: the whole image, then its tiles, if it is larger than one.

    >>> windows(300, 500, Tiling(300, 0.2))
    [Window(left=0, top=0, right=500, bottom=300), Window(left=0, top=0, right=300, bottom=300), \
Window(left=200, top=0, right=500, bottom=300)]
    """
    whole = Window(0, 0, width, height)
    if not tiling.size or max(height, width) <= tiling.size:
        return [whole]
    rows, columns = (starts(length, tiling) for length in (height, width))
    tiles = [
        Window(left, top, min(left + tiling.size, width), min(top + tiling.size, height)) for top in rows for left in columns
    ]
    return [whole, *tiles]


def starts(length: int, tiling: Tiling) -> list[int]:
    """Where tiles start along one axis, px: at equal distances, the last one ends with the image."""
    room = length - tiling.size
    if room <= 0:
        return [0]
    count = ceil(room / (tiling.size * (1 - tiling.overlap))) + 1
    return [int(start) for start in np.linspace(0, room, count).round()]


def number_of_windows(sizes_hw: Iterable[tuple[int, int]], tiling: Tiling) -> int:
    """Number of windows of all images of a split together."""
    return sum(len(windows(height, width, tiling)) for height, width in sizes_hw)


def merged(parts: Sequence[Record], of: Sequence[Window], tiling: Tiling) -> Record:
    """Join the detections of the windows of an image, as `windows` lists them. Boxes are in px of the image.

    An object that fits into the overlap, without touching both of its sides, is whole in one of the tiles. So boxes that end at
    a cut are left out, and larger objects come from the whole image. If two windows show the same object, the detection with
    the higher score stays. Detections of one window do not suppress each other.
    """
    if len(parts) == 1:
        return parts[0]
    moved = [
        part | {"boxes": part["boxes"] + np.array([w.left, w.top] * 2, np.float32)} for part, w in zip(parts, of, strict=True)
    ]
    whole, least = moved[0], (tiling.overlap - 2 * AT_BORDER) * tiling.size
    large = (whole["boxes"][:, 2:] - whole["boxes"][:, :2]).max(1, initial=0) > least
    kept = [large, *(~ends_at_cut(part["boxes"], window, of[0]) for part, window in zip(moved[1:], of[1:], strict=True))]
    owners = np.repeat(np.arange(len(parts)), [int(mask.sum()) for mask in kept])
    joined = {key: np.concatenate([part[key][mask] for part, mask in zip(moved, kept, strict=True)]) for key in whole}
    order = np.argsort(-joined["scores"], kind="stable")
    joined, owners = {key: value[order] for key, value in joined.items()}, owners[order]
    first = seen_first(joined["boxes"], joined["labels"], owners)
    return {key: value[first] for key, value in joined.items()}


def ends_at_cut(boxes: np.ndarray, window: Window, image: Window) -> np.ndarray:
    """Whether boxes [D, 4] in px of the image end at a side of the window that is not a side of the image. Returns bool [D]."""
    near = AT_BORDER * max(window.size_hw)
    low, high = boxes[:, :2] - np.array(window[:2]) < near, np.array(window[2:]) - boxes[:, 2:] < near
    inside = np.array(window[:2]) > np.array(image[:2]), np.array(window[2:]) < np.array(image[2:])
    ends: np.ndarray = (low & inside[0] | high & inside[1]).any(1)
    return ends


def seen_first(boxes: np.ndarray, labels: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Find detections that no detection before them shows already. Returns bool [D].

    Parameters
    ----------
    boxes : [D, 4] xyxy px, best first
    labels : [D], only detections of the same class are compared
    owners : [D], window of each detection; only detections of different windows are compared
    """
    kept = np.zeros(len(boxes), dtype=bool)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        for number, i in enumerate(own):
            before = own[:number][kept[own[:number]] & (owners[own[:number]] != owners[i])]
            low, high = np.maximum(boxes[before, :2], boxes[i, :2]), np.minimum(boxes[before, 2:], boxes[i, 2:])
            shared = np.prod((high - low).clip(0), -1)
            kept[i] = not (shared > SAME_OBJECT * np.minimum(areas[before], areas[i])).any()
    return kept
