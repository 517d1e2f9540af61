"""Detect the box format of an annotation file from all its boxes, and convert boxes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.data.text import number_of

Boxes = np.ndarray
TOLERANCE_PX = 1.0  # a box that crosses the image border by at most this much is not reported
FEW, MANY = 5, 20  # fewer than FEW boxes are not enough to decide; from MANY boxes on a smaller fraction is enough
# Fractions of a file's boxes.
OUTSIDE_OF_FEW, OUTSIDE_OF_MANY, TOO_MANY_OUTSIDE = 0.5, 0.2, 0.3
NEARLY_ALL, MOST = 0.95, 0.9
AS_GOOD = 0.01  # two layouts fit equally well if their fractions differ by at most this much
LARGEST = 1e15  # larger values cannot be pixels, and products of them would overflow
COCO = "xywh"
UPRIGHT = ("xywh", "xyxy", "cxcywh")  # layouts tried for normalised boxes, where swapped x and y cannot be detected

# Name of a layout → function that converts its four columns to x, y, w, h.
LAYOUTS: dict[str, Callable[[Boxes], tuple[Any, ...]]] = {
    "xywh": lambda v: (v[0], v[1], v[2], v[3]),
    "xyxy": lambda v: (v[0], v[1], v[2] - v[0], v[3] - v[1]),
    "cxcywh": lambda v: (v[0] - v[2] / 2, v[1] - v[3] / 2, v[2], v[3]),
    "yxyx": lambda v: (v[1], v[0], v[3] - v[1], v[2] - v[0]),
    "yxhw": lambda v: (v[1], v[0], v[3], v[2]),
}


class BoxFormat(NamedTuple):
    """Format of the boxes of a file.

    Attributes
    ----------
    layout : "xywh", the COCO format, or another key of `LAYOUTS`. The first three may have the prefix "normalised ", if
        coordinates are fractions of the image's sides
    message : description of the problem; None if the boxes are in the COCO format
    """

    layout: str = COCO
    message: str | None = None


def to_xywh(boxes: Boxes, layout: str, sizes: Boxes) -> Boxes:
    """Convert boxes [N, 4] from `layout` to x, y, w, h in px. `sizes` [N, 2] holds width and height of their images, px."""
    unit, _, order = layout.rpartition(" ")
    boxes = np.stack(LAYOUTS[order](boxes.T), axis=1)
    return boxes * np.tile(sizes, 2) if unit else boxes


def fits(boxes: Boxes, sizes: Boxes) -> np.ndarray:
    """bool [N]: whether boxes (x, y, w, h, px) have an area and lie inside their images of `sizes` (width, height, px)."""
    start, extent = boxes[:, :2], boxes[:, 2:]
    inside: np.ndarray = (extent > 0) & (start >= -TOLERANCE_PX) & (start + extent <= sizes + TOLERANCE_PX)
    return np.asarray(inside.all(axis=1))


def detect_box_format(boxes: Boxes, sizes: Boxes, elsewhere: str = COCO) -> BoxFormat:
    """Detect the format of boxes.

    It is the COCO format, unless many boxes read in this format do not fit their images and nearly all fit in another layout.

    Parameters
    ----------
    boxes : float64 [N, 4], as in the file
    sizes : float64 [N, 2], width and height of their images, px
    elsewhere : layout of another split of the data set. Fewer boxes are needed to detect it
    """
    count = len(boxes)
    inside = fits(boxes, sizes).mean() if count else 1.0
    if elsewhere != COCO and inside < 1 and fits(to_xywh(boxes, elsewhere, sizes), sizes).mean() >= max(NEARLY_ALL, inside):
        return BoxFormat(elsewhere, f"boxes are in the format {elsewhere}, as in another split, not x, y, w, h in px")
    if count < FEW:
        return BoxFormat()
    # In tiny images, boxes below 1 px are plausible.
    normalised = (boxes.max(1) <= 1.01).mean() >= MOST and np.median(sizes.min(1)) > 16
    outside = float(1 - inside)
    if not normalised and outside < (OUTSIDE_OF_MANY if count >= MANY else OUTSIDE_OF_FEW):
        return BoxFormat()
    names = [f"normalised {layout}" for layout in UPRIGHT] if normalised else list(LAYOUTS)
    shares = {name: float(fits(to_xywh(boxes, name, sizes), sizes).mean()) for name in names}
    highest = max(shares.values())
    good = [name for name in names if shares[name] >= max(NEARLY_ALL, highest - AS_GOOD)]
    if not good and normalised:
        good = [max(names, key=lambda name: shares[name])]
    if good:
        best = min(good, key=lambda name: centre_offset(to_xywh(boxes, name, sizes), sizes))
        others = "".join(f"; {name} fits too: check the boxes in the copy" for name in good if name != best)
        return BoxFormat(
            best,
            f"boxes are in the format {best}, not x, y, w, h in px: {shares[best]:.0%} of {count} boxes fit it{others}",
        )
    if outside >= TOO_MANY_OUTSIDE and count >= MANY:
        text = f"{outside:.0%} of {count} boxes do not lie inside their images, and no known box format fits"
        return BoxFormat(COCO, f"{text}: check the format of the boxes")
    return BoxFormat()


def centre_offset(boxes: Boxes, sizes: Boxes) -> float:
    """Distance from the mean box centre to the image centre, as a fraction of the image sides. A wrong layout increases it."""
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) / sizes
    return round(float(np.abs(centres.mean(0) - 0.5).sum()), 3)


def box_of(row: dict[str, Any]) -> list[float] | None:
    """Return the box of a COCO annotation as four finite numbers, or None. Without "bbox", polygons give the box."""
    bbox = row.get("bbox")
    if bbox is not None and bbox != []:
        return numbers(bbox)
    polygons = row.get("segmentation")
    if not isinstance(polygons, list) or not polygons:
        return None
    points = [numbers(polygon, None) or [] for polygon in polygons]
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in points):
        return None
    xs, ys = ([value for polygon in points for value in polygon[axis::2]] for axis in (0, 1))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def numbers(values: Any, count: int | None = 4) -> list[float] | None:
    """Convert a list of numbers or numeric strings to floats.

    Returns None unless it holds `count` numbers (None = any number of them) with absolute values of at most `LARGEST`.
    """
    if not isinstance(values, list | tuple) or any(isinstance(value, bool) for value in values):
        return None
    try:
        found = [number_of(value) if isinstance(value, str) else float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if count in (None, len(found)) and all(abs(value) <= LARGEST for value in found) else None
