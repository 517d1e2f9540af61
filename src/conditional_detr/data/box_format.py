"""How a box is written, and how all boxes of a file are, told by statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Boxes = np.ndarray
TOLERANCE_PX = 1.0  # a box may reach so far over its image's edge before it is worth a word
FEW, MANY = 5, 20  # boxes: fewer tell nothing; from many on a smaller share is evidence
OUTSIDE_OF_FEW, OUTSIDE_OF_MANY, TOO_MANY_OUTSIDE = 0.5, 0.2, 0.3  # of a file's boxes
NEARLY_ALL, MOST = 0.95, 0.9
AS_GOOD = 0.01  # a difference in shares that says nothing
LARGEST = 1e15  # what is beyond it is no number of pixels, and has no product
COCO = "xywh"
UPRIGHT = ("xywh", "xyxy", "cxcywh")  # where sides are the unit, x and y cannot be told from each other

LAYOUTS: dict[str, Callable[[Boxes], tuple[Any, ...]]] = {  # columns of a file → x, y, w, h; of two as good ones the first
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
    layout : "xywh", COCO's, or another of `LAYOUTS`, the first three also after "normalised ", where sides of the
        image are the unit
    message : what is wrong with it, in words; None where it is COCO's way
    """

    layout: str = COCO
    message: str | None = None


def to_xywh(boxes: Boxes, layout: str, sizes: Boxes) -> Boxes:
    """Boxes [N, 4] as they are written, of images of sizes [N, 2] (width, height, px) → x, y, w, h px."""
    unit, _, order = layout.rpartition(" ")
    boxes = np.stack(LAYOUTS[order](boxes.T), axis=1)
    return boxes * np.tile(sizes, 2) if unit else boxes


def fits(boxes: Boxes, sizes: Boxes) -> np.ndarray:
    """bool [N]: whether boxes x, y, w, h px have an area and lie inside images of these sizes (width, height, px)."""
    start, extent = boxes[:, :2], boxes[:, 2:]
    inside: np.ndarray = (extent > 0) & (start >= -TOLERANCE_PX) & (start + extent <= sizes + TOLERANCE_PX)
    return np.asarray(inside.all(axis=1))


def detect_box_format(boxes: Boxes, sizes: Boxes, elsewhere: str = COCO) -> BoxFormat:
    """As COCO says, unless that fails often and another way hardly ever.

    Parameters
    ----------
    boxes : float64 [N, 4] as they are written
    sizes : float64 [N, 2] of their images, width and height, px
    elsewhere : how the boxes of another split of the data set are written, which needs less evidence
    """
    count = len(boxes)
    inside = fits(boxes, sizes).mean() if count else 1.0
    if elsewhere != COCO and inside < 1 and fits(to_xywh(boxes, elsewhere, sizes), sizes).mean() >= max(NEARLY_ALL, inside):
        return BoxFormat(elsewhere, f"boxes are written as {elsewhere}, as in another split, not as x, y, w, h in px")
    if count < FEW:
        return BoxFormat()
    normalised = (boxes.max(1) <= 1.01).mean() >= MOST and np.median(sizes.min(1)) > 16  # a file of boxes below a pixel
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
        best = min(good, key=lambda name: lopsided(to_xywh(boxes, name, sizes), sizes))
        others = "".join(f"; {name} would fit too: look at the copy" for name in good if name != best)
        return BoxFormat(
            best, f"boxes are written as {best}, not as x, y, w, h in px: {shares[best]:.0%} of {count} fit so{others}"
        )
    if outside >= TOO_MANY_OUTSIDE and count >= MANY:
        text = f"{outside:.0%} of {count} boxes do not lie inside their images: if that is not meant, they are written"
        return BoxFormat(COCO, f"{text} in a way that is not known")
    return BoxFormat()


def lopsided(boxes: Boxes, sizes: Boxes) -> float:
    """How far the mean centre is from the middle of the images; taking a centre for a corner moves it."""
    centres = (boxes[:, :2] + boxes[:, 2:] / 2) / sizes
    return round(float(np.abs(centres.mean(0) - 0.5).sum()), 3)


def box_of(row: dict[str, Any]) -> list[float] | None:
    """Four finite numbers of a COCO annotation, or None; where it has no "bbox", those of its polygons."""
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
    """So many finite numbers, none absurdly large, also where a tool wrote them as texts; or None."""
    if not isinstance(values, list | tuple) or any(isinstance(value, bool) for value in values):
        return None
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None
    return found if count in (None, len(found)) and all(abs(value) <= LARGEST for value in found) else None
