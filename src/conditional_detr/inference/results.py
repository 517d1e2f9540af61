"""Process the detections of an image (records of `postprocess`): clip, filter by score, convert to rows or supervision."""

import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from conditional_detr.inference.batching import Model

if TYPE_CHECKING:
    import supervision as sv

DEFAULT_CONF = 0.3  # lowest score, for a model without its own thresholds


class Row(NamedTuple):
    """One detection: class index, box (x, y, w, h, px) and score."""

    label: int
    bbox: list[float]
    score: float


def rows_of(result: dict[str, np.ndarray]) -> list[Row]:
    """Convert a record to rows, highest score first, for files and for COCO evaluation."""
    found = zip(result["labels"].tolist(), result["boxes"].tolist(), result["scores"].tolist(), strict=True)
    return [Row(label, [x0, y0, x1 - x0, y1 - y0], score) for label, (x0, y0, x1, y1), score in found]


def clip_to_image(rgb: np.ndarray, result: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Clip the boxes of a record to their image [H, W, 3], for display and crops.

    Evaluation uses unclipped boxes, as the released code does.
    """
    height, width = rgb.shape[:2]
    return result | {"boxes": result["boxes"].clip(0, np.array([width, height, width, height], dtype=np.float32))}


def selected(result: dict[str, np.ndarray], model: Model, conf: float | None) -> dict[str, np.ndarray]:
    """Keep the detections whose score reaches the threshold, without those that the model's `nms_iou` suppresses.

    `conf` is used as in `Detector`.
    """
    result = above_threshold(result, model, conf)
    if model.nms_iou is None:
        return result
    kept = not_suppressed(result["boxes"], result["labels"], result["scores"], model.nms_iou)
    return {key: value[kept] for key, value in result.items()}


def not_suppressed(boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """Non-maximum suppression within each class. Returns bool [D], False for boxes that overlap a kept box of higher score.

    Parameters
    ----------
    boxes : [D, 4] xyxy px
    labels, scores : [D]
    iou : largest IoU of two kept boxes of a class

    >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]])
    >>> not_suppressed(boxes, np.array([0, 0, 1]), np.array([0.9, 0.8, 0.7]), 0.5).tolist()
    [True, False, True]
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    kept = np.zeros(len(boxes), dtype=bool)
    for i in np.argsort(-scores, kind="stable"):  # one box at a time: an image in tiles may have tens of thousands
        rivals = np.flatnonzero(kept & (labels == labels[i]))
        low, high = np.maximum(boxes[i, :2], boxes[rivals, :2]), np.minimum(boxes[i, 2:], boxes[rivals, 2:])
        shared = np.prod((high - low).clip(0), -1)
        kept[i] = not (shared > iou * (areas[i] + areas[rivals] - shared)).any()
    return kept


def above_threshold(result: dict[str, np.ndarray], model: Model, conf: float | None) -> dict[str, np.ndarray]:
    """Keep the detections whose score reaches the threshold. `conf` is used as in `Detector`."""
    lowest: float | np.ndarray = DEFAULT_CONF if conf is None else conf
    if conf is None and model.thresholds is not None:
        lowest = np.array(model.thresholds, dtype=np.float32)[result["labels"]]
    kept = result["scores"] >= lowest
    return {key: value[kept] for key, value in result.items()}


def threshold_text(model: Model, conf: float | None) -> str:
    """Description of the thresholds that `selected` uses."""
    end = (
        ""
        if model.nms_iou is None
        else f"; of two boxes of one class with an IoU above {model.nms_iou:g}, only the better one is kept"
    )
    if conf is not None or model.thresholds is None:
        return f"score threshold {DEFAULT_CONF if conf is None else conf}{end}"
    low, high = min(model.thresholds), max(model.thresholds)
    same = f"{low:.2f}" == f"{high:.2f}"
    return (f"score threshold {low:.2f}" if same else f"score thresholds {low:.2f} to {high:.2f}, one per class") + end


def to_detections(result: dict[str, np.ndarray], model: Model) -> "sv.Detections":
    """Convert a record to `supervision.Detections`, with the names and category ids of the model's classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without OpenCV it warns that it draws slowly, but it does not draw here
        import supervision as sv
    labels = result["labels"].astype(int)
    return sv.Detections(
        xyxy=result["boxes"].astype(np.float32),
        confidence=result["scores"].astype(np.float32),
        class_id=labels,
        data={
            "class_name": np.array([model.class_names[i] for i in labels], dtype=str),
            "category_id": np.array([model.category_ids[i] for i in labels], dtype=int),
        },
    )
