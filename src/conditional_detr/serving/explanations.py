"""Attention of the detections in an image, for the page."""

from base64 import b64encode

import numpy as np
import torch

from conditional_detr.explaining.maps import Explanation, explain_image
from conditional_detr.factory.build import DetectionModel
from conditional_detr.inference.batching import Model
from conditional_detr.inference.results import DEFAULT_CONF
from conditional_detr.serving.answers import ExplainedObject, Explanations, Maps

MOST = 30  # detections that are explained, those with the highest scores


def explained(model: Model, rgb: np.ndarray, conf: float | None, name: str) -> Explanations:
    """Explain the detections in an image, uint8 [H, W, 3]."""
    assert isinstance(model, DetectionModel)
    lowest = min(model.thresholds or [DEFAULT_CONF]) if conf is None else conf
    found = explain_image(model, torch.from_numpy(rgb).permute(2, 0, 1), lowest)[:MOST]
    return Explanations(
        file_name=name, width=rgb.shape[1], height=rgb.shape[0], detections=[_object(model, each) for each in found]
    )


def _object(model: DetectionModel, found: Explanation) -> ExplainedObject:
    x0, y0, x1, y1 = map(float, found.box)
    layers, heads, rows, columns = found.combined.shape
    return ExplainedObject(
        category_id=model.category_ids[found.class_id],
        category_name=found.class_name,
        bbox=(x0, y0, x1 - x0, y1 - y0),
        score=found.score,
        reference_point=None if found.reference_point is None else tuple(map(float, found.reference_point)),
        maps=Maps(
            layers=layers,
            heads=heads,
            rows=rows,
            columns=columns,
            cell_width=found.cell_size[0],
            cell_height=found.cell_size[1],
            spatial=_bytes(found.spatial),
            content=_bytes(found.content),
            combined=_bytes(found.combined) or "",
        ),
    )


def _bytes(maps: np.ndarray | None) -> str | None:
    if maps is None:
        return None
    highest = maps.max((2, 3), keepdims=True).clip(1e-12)
    return b64encode((255 * maps / highest).round().astype(np.uint8).tobytes()).decode()
