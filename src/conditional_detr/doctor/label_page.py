"""The page of likely label errors, the most suspicious first."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conditional_detr.data.index import SplitIndex
from conditional_detr.doctor.label_errors import LabelError
from conditional_detr.errors import ImageError, plural
from conditional_detr.evaluation import plots
from conditional_detr.evaluation.pages import embedded, write_page
from conditional_detr.evaluation.report import jpeg
from conditional_detr.images.decoding import decode_array
from conditional_detr.inference.drawing import draw

SHOWN = 60  # errors with an image
MARGIN = 1.5  # of the part of the image that is shown, in sides of the object
MIN_SIDE = 160  # of that part, px
LABEL, FOUND = "#d97706", "#2563eb"  # colours


def write_label_page(index: SplitIndex, errors: Sequence[LabelError], file: Path, title: str, ap50: float | None) -> None:
    """Write the page.

    Parameters
    ----------
    index : all images with their labels
    errors : likely errors, the most suspicious first
    file : output file
    title : name of the data set
    ap50 : AP50 of the models on these images
    """
    shown = [row for error in errors[:SHOWN] if (row := _row(index, error)) is not None]
    kinds = Counter(error.kind for error in errors).most_common()
    content = {
        "title": f"Likely label errors in {title}",
        "count": len(errors),
        "kinds": ", ".join(f"{count} × {kind}" for kind, count in kinds),
        "labels": plural(len(index.labels), "label"),
        "images": plural(len(index), "image"),
        "errors": shown,
        "ap50": ap50,
    }
    write_page(file, "label_errors", content)


def _row(index: SplitIndex, error: LabelError) -> dict[str, Any] | None:
    """The error with a part of its image: the label (orange) and the detection (blue)."""
    names = [category.name for category in index.categories]
    boxes, texts, colours = [], [], []
    if error.box_xyxy is not None and error.label is not None:
        boxes.append(error.box_xyxy)
        texts.append(plots.shortened(names[error.label]))
        colours.append(LABEL)
    if error.found_box_xyxy is not None and error.found_label is not None:
        boxes.append(error.found_box_xyxy)
        texts.append(f"{plots.shortened(names[error.found_label])} {error.score:.2f}")
        colours.append(FOUND)
    try:
        rgb = decode_array(index.paths[error.image])
    except ImageError:
        return None
    left, top, right, bottom = _part(np.array(boxes), rgb.shape[:2])
    inside = np.array(boxes) - [left, top, left, top]
    drawn = draw(rgb[top:bottom, left:right], inside, np.arange(len(boxes)), texts, colours)
    return {
        "kind": error.kind,
        "suspicion": error.suspicion,
        "name": Path(index.paths[error.image]).name,
        "label": "" if error.label is None else names[error.label],
        "found": "" if error.found_label is None else names[error.found_label],
        "jpeg": embedded(jpeg(drawn)),
    }


def _part(boxes: np.ndarray, size_hw: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part of an image around boxes [N, 4]: left, top, right, bottom, px."""
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    half = np.maximum((0.5 + MARGIN) * (high - low), MIN_SIDE / 2)
    centre = (low + high) / 2
    size = np.array([size_hw[1], size_hw[0]])
    left, top = np.clip(centre - half, 0, size - 1).astype(int).tolist()
    right, bottom = np.clip(np.ceil(centre + half), [left + 1, top + 1], size).astype(int).tolist()
    return left, top, right, bottom
