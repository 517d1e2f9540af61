"""Box formats: detect from all boxes of a file how they are written, and convert them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.data.text import number_of

Boxes = np.ndarray
TOLERANCE_PX = 1.0  # a box that crosses the image border by at most this much is not reported
FEW, MANY = 5, 20  # number of boxes: fewer than FEW are no evidence; from MANY on a smaller fraction is enough
# Fractions of a file's boxes.
OUTSIDE_OF_FEW, OUTSIDE_OF_MANY, TOO_MANY_OUTSIDE = 0.5, 0.2, 0.3
NEARLY_ALL, MOST = 0.95, 0.9
AS_GOOD = 0.01  # two layouts whose fractions differ by at most this much fit equally well
LARGEST = 1e15  # larger values cannot be pixels, and products of them would overflow
COCO = "xywh"
UPRIGHT = ("xywh", "xyxy", "cxcywh")  # layouts tried for normalised boxes, where swapped x and y cannot be detected

# By name, the conversion of the four columns to x, y, w, h.
LAYOUTS: dict[str, Callable[[Boxes], tuple[Any, ...]]] = {
    "xywh": lambda v: (v[0], v[1], v[2], v[3]),
    "xyxy": lambda v: (v[0], v[1], v[2] - v[0], v[3] - v[1]),
    "cxcywh": lambda v: (v[0] - v[2] / 2, v[1] - v[3] / 2, v[2], v[3]),
    "yxyx": lambda v: (v[1], v[0], v[3] - v[1], v[2] - v[0]),
    "yxhw": lambda v: (v[1], v[0], v[3], v[2]),
}


class BoxFormat(NamedTuple):
    """How the boxes of a file are written.

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
    """Detect how boxes are written.

    The answer is the COCO format, unless many boxes do not fit their images in it and nearly all fit in another layout.

    Parameters
    ----------
    boxes : float64 [N, 4] as they are written
    sizes : float64 [N, 2], width and height of their images, px
    elsewhere : layout of another split of the data set; less evidence is needed for it
    """
    count = len(boxes)
    inside = fits(boxes, sizes).mean() if count else 1.0
    if elsewhere != COCO and inside < 1 and fits(to_xywh(boxes, elsewhere, sizes), sizes).mean() >= max(NEARLY_ALL, inside):
        return BoxFormat(elsewhere, f"boxes are written as {elsewhere}, as in another split, not as x, y, w, h in px")
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
        others = "".join(f"; {name} would fit too: check the boxes in the copy" for name in good if name != best)
        return BoxFormat(
            best, f"boxes are written as {best}, not as x, y, w, h in px: {shares[best]:.0%} of {count} fit this format{others}"
        )
    if outside >= TOO_MANY_OUTSIDE and count >= MANY:
        text = f"{outside:.0%} of {count} boxes do not lie inside their images. If that is not intended, they are written"
        return BoxFormat(COCO, f"{text} in an unknown format")
    return BoxFormat()


def centre_offset(boxes: Boxes, sizes: Boxes) -> float:
    """Distance of the mean box centre from the image centre, in image sides. A wrong layout shifts the centres."""
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) / sizes
    return round(float(np.abs(centres.mean(0) - 0.5).sum()), 3)


def box_of(row: dict[str, Any]) -> list[float] | None:
    """The box of a COCO annotation as four finite numbers, or None. Without a "bbox" it is computed from the polygons."""
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
    """Convert a list to floats, also if a tool wrote them as strings.

    None if it is not a list of `count` finite numbers (`count` None = any length) of at most ±`LARGEST`.
    """
    if not isinstance(values, list | tuple) or any(isinstance(value, bool) for value in values):
        return None
    try:
        found = [number_of(value) if isinstance(value, str) else float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if count in (None, len(found)) and all(abs(value) <= LARGEST for value in found) else None
