"""Process the detections of an image (records of `postprocess`): clip, filter by score, convert to rows or supervision."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from conditional_detr.inference.batching import Model

if TYPE_CHECKING:
    import supervision as sv

DEFAULT_CONF = 0.3  # lowest score, for a model without its own thresholds


class Row(NamedTuple):
    """One detection: class index, box (x, y, w, h, px) and score."""

    label: int
    bbox: list[float]
    score: float


def rows_of(result: dict[str, Tensor]) -> list[Row]:
    """Convert a record to rows, highest score first, for files and for COCO evaluation."""
    found = zip(result["labels"].tolist(), result["boxes"].tolist(), result["scores"].tolist(), strict=True)
    return [Row(label, [x0, y0, x1 - x0, y1 - y0], score) for label, (x0, y0, x1, y1), score in found]


def clip_to_image(rgb: Tensor, result: dict[str, Tensor]) -> dict[str, Tensor]:
    """Clip the boxes of a record to their image [3, H, W], for display and crops.

    Evaluation uses unclipped boxes, as the released code does.
    """
    return result | {"boxes": clip_boxes_to_image(result["boxes"], (rgb.shape[-2], rgb.shape[-1]))}


def above_threshold(result: dict[str, Tensor], model: Model, conf: float | None) -> dict[str, Tensor]:
    """Keep the detections whose score reaches the threshold. `conf` is used as in `Detector`."""
    lowest: float | Tensor = DEFAULT_CONF if conf is None else conf
    if conf is None and model.thresholds is not None:
        lowest = torch.tensor(model.thresholds)[result["labels"]]
    kept = result["scores"] >= lowest
    return {key: value[kept] for key, value in result.items()}


def threshold_text(model: Model, conf: float | None) -> str:
    """Description of the threshold that `above_threshold` uses."""
    if conf is not None or model.thresholds is None:
        return f"score threshold {DEFAULT_CONF if conf is None else conf}"
    low, high = min(model.thresholds), max(model.thresholds)
    same = f"{low:.2f}" == f"{high:.2f}"
    return f"score threshold {low:.2f}" if same else f"score thresholds {low:.2f} to {high:.2f}, one per class"


def to_detections(result: dict[str, Tensor], model: Model) -> "sv.Detections":
    """Convert a record to `supervision.Detections`, with the names and category ids of the model's classes."""
    import supervision as sv

    labels = result["labels"].numpy().astype(int)
    return sv.Detections(
        xyxy=result["boxes"].numpy().astype(np.float32),
        confidence=result["scores"].numpy().astype(np.float32),
        class_id=labels,
        data={
            "class_name": np.array([model.class_names[i] for i in labels], dtype=str),
            "category_id": np.array([model.category_ids[i] for i in labels], dtype=int),
        },
    )
