"""Convert the output of a model to scores, labels and boxes in pixels."""

from typing import NamedTuple

import torch
from torch import Tensor

from conditional_detr.boxes import cxcywh_to_xyxy
from conditional_detr.errors import ConfigError, did_you_mean
from conditional_detr.model.detr import DetectionOutput


class Pairs(NamedTuple):
    """The pairs of query and class with the highest scores in each image, highest first. Each field is [B, k]."""

    scores: Tensor
    queries: Tensor
    labels: Tensor


def best_focal_pairs(logits: Tensor, top_k: int) -> Pairs:
    """Select the best pairs of query and class by sigmoid score. A query may occur with several classes (Conditional DETR)."""
    classes = logits.shape[-1]
    flat = logits.sigmoid().flatten(1)
    scores, index = flat.topk(min(top_k, flat.shape[1]), dim=1)
    return Pairs(scores, torch.div(index, classes, rounding_mode="floor"), index % classes)


def best_softmax_pairs(logits: Tensor, top_k: int) -> Pairs:
    """Select the best queries, each with its best class, by softmax over all classes and "no object" (DETR)."""
    best, labels = logits.softmax(-1)[..., :-1].max(-1)
    scores, queries = best.topk(min(top_k, best.shape[1]), dim=1)
    return Pairs(scores, queries, labels.gather(1, queries))


BEST_PAIRS = {"focal": best_focal_pairs, "softmax": best_softmax_pairs}


def best_pairs(logits: Tensor, top_k: int, classification: str) -> Pairs:
    """Return the `top_k` pairs of query and class with the highest scores, from logits [B, Q, K or K+1]."""
    if classification not in BEST_PAIRS:
        raise ConfigError(f"there is no classification {classification!r}. {did_you_mean(classification, BEST_PAIRS)}")
    return BEST_PAIRS[classification](logits.float(), top_k)


def boxes_in_pixels(boxes_cxcywh: Tensor, size_hw: Tensor) -> Tensor:
    """Convert cxcywh boxes [..., 4] in [0, 1] to xyxy boxes in pixels, for images of size [..., 2]."""
    height, width = size_hw.to(boxes_cxcywh).unbind(-1)
    return cxcywh_to_xyxy(boxes_cxcywh) * torch.stack([width, height, width, height], dim=-1)


def postprocess(
    output: DetectionOutput, sizes_hw: Tensor, top_k: int = 100, classification: str = "focal"
) -> list[dict[str, Tensor]]:
    """Convert the output of a detector to the `top_k` best detections of each image, in pixels of the original image.

    There is no score threshold, no non-maximum suppression and no clipping, as in the released code. With "focal" a query may
    appear with several classes; with "softmax" it appears only with its best class.

    Parameters
    ----------
    output : output of the detector
    sizes_hw : [B, 2], heights and widths of the original images, px
    top_k : maximum number of detections per image
    classification : type of the logits: "focal", or "softmax", where the last logit means "no object"

    Returns
    -------
    One dict per image, with these entries:

    - "scores" : [k] in [0, 1], in descending order
    - "labels" : int64 [k], class indices
    - "boxes" : [k, 4], xyxy, px
    - "queries" : int64 [k], index of the query of each detection
    - predictions of additional heads for these queries, [k, …], by name
    """
    scores, queries, labels = best_pairs(output.pred_logits, top_k, classification)
    boxes = output.pred_boxes.float().gather(1, queries[..., None].expand(-1, -1, 4))
    boxes = boxes_in_pixels(boxes, sizes_hw[:, None])
    further = {name: value for name, value in output.last_layer().items() if name not in ("logits", "boxes")}
    return [
        {"scores": scores[i], "labels": labels[i], "boxes": boxes[i], "queries": queries[i]}
        | {name: value[i, queries[i]] for name, value in further.items()}
        for i in range(len(scores))
    ]
