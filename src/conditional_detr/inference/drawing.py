"""Draw boxes and labels on images, with Pillow."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from conditional_detr.errors import RunError
from conditional_detr.storage.writing import writing

LEGIBLE_SIDE = 480  # px; smaller images are enlarged by an integer factor, so that labels can be read
LARGEST_SIDE = 4 * LEGIBLE_SIDE  # px, of an enlarged image
LINE_SHARE, TEXT_SHARE = 1 / 250, 1 / 36  # thickness of lines and height of letters, in shorter sides of the image
LEAST_LINE, LEAST_TEXT, TEXT_PADDING = 2, 11, 3  # px
COLOURS = (
    "#A351FB", "#FF4040", "#FFA1A0", "#FF7633", "#FFB633", "#D1D435", "#4CFB12", "#94CF1A", "#40DE8A", "#1B9640", "#00D6C1",
    "#2E9CAA", "#00C4FF", "#364797", "#6675FF", "#0019EF", "#863AFF", "#530087", "#CD3AFF", "#FF97CA", "#FF39C9",
)  # fmt: skip
Corners = tuple[int, int, int, int]


def draw(
    rgb: np.ndarray, boxes_xyxy: np.ndarray, class_ids: np.ndarray, labels: Sequence[str], colours: Sequence[str] = COLOURS
) -> np.ndarray:
    """Draw boxes and labels on a copy of an image.

    Parameters
    ----------
    rgb : uint8 [H, W, 3]
    boxes_xyxy : [M, 4], in pixels of the image
    class_ids : int [M]
    labels : one text per box
    colours : hex colours such as "#059669", indexed by class id modulo their number
    """
    short, long = min(rgb.shape[:2]), max(rgb.shape[:2])
    factor = max(1, min(-(-LEGIBLE_SIDE // short), LARGEST_SIDE // long)) if long < LEGIBLE_SIDE else 1
    scene = Image.fromarray(rgb.repeat(factor, 0).repeat(factor, 1))
    canvas, short = ImageDraw.Draw(scene), min(scene.size)
    font = ImageFont.load_default(max(LEAST_TEXT, round(short * TEXT_SHARE)))
    shades = [colours[class_id % len(colours)] for class_id in class_ids.tolist()]
    boxes: list[list[int]] = (boxes_xyxy * factor).astype(int).tolist()
    for box, shade in zip(boxes, shades, strict=True):
        canvas.rectangle(box, outline=shade, width=max(LEAST_LINE, round(short * LINE_SHARE)))
    taken: list[Corners] = []
    for box, shade, label in zip(boxes, shades, labels, strict=True):
        right, bottom = (round(side) + 2 * TEXT_PADDING for side in canvas.textbbox((0, 0), label, font=font)[2:])
        place = free_place(box[:2], (right, bottom), scene.size, taken)
        canvas.rectangle(place, fill=shade)
        canvas.text((place[0] + TEXT_PADDING, place[1] + TEXT_PADDING), label, "white", font)
        taken.append(place)
    return np.array(scene)


def free_place(corner_xy: Sequence[int], size_wh: tuple[int, int], scene_wh: tuple[int, int], taken: list[Corners]) -> Corners:
    """Where a label is drawn: above the upper left corner of its box, inside the image, and below labels that are there."""
    width, height = size_wh
    left = max(0, min(corner_xy[0], scene_wh[0] - width))
    top = start = max(0, corner_xy[1] - height)
    while any(left < x1 and x0 < left + width and top < y1 and y0 < top + height for x0, y0, x1, y1 in taken):
        top += height
        if top + height > scene_wh[1]:
            top = start
            break
    return left, top, left + width, top + height


def save_image(rgb: np.ndarray, file: Path) -> None:
    """Write an image. The suffix of the file name determines the format."""
    with writing(file, RunError):
        Image.fromarray(rgb).save(file, quality=92)
