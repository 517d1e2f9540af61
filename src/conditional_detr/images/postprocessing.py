"""From a model's output to scores, labels and boxes in pixels."""

from typing import NamedTuple

import torch
from torch import Tensor

from conditional_detr.boxes import cxcywh_to_xyxy
from conditional_detr.errors import ConfigError, did_you_mean
from conditional_detr.model.detr import DetectionOutput


class Pairs(NamedTuple):
    """The best pairs of query and class of each image, best first: [B, k] each."""

    scores: Tensor
    queries: Tensor
    labels: Tensor


def best_focal_pairs(logits: Tensor, top_k: int) -> Pairs:
    """Of all pairs of query and class, by sigmoid; a query may appear with several classes (Conditional DETR)."""
    classes = logits.shape[-1]
    flat = logits.sigmoid().flatten(1)
    scores, index = flat.topk(min(top_k, flat.shape[1]), dim=1)
    return Pairs(scores, torch.div(index, classes, rounding_mode="floor"), index % classes)


def best_softmax_pairs(logits: Tensor, top_k: int) -> Pairs:
    """Of each query its best class, by softmax over all classes and no object (DETR)."""
    best, labels = logits.softmax(-1)[..., :-1].max(-1)
    scores, queries = best.topk(min(top_k, best.shape[1]), dim=1)
    return Pairs(scores, queries, labels.gather(1, queries))


BEST_PAIRS = {"focal": best_focal_pairs, "softmax": best_softmax_pairs}


def best_pairs(logits: Tensor, top_k: int, classification: str) -> Pairs:
    """The best `top_k` pairs of query and class of logits [B, Q, K or K+1]."""
    if classification not in BEST_PAIRS:
        raise ConfigError(f"there is no classification {classification!r}. {did_you_mean(classification, BEST_PAIRS)}")
    return BEST_PAIRS[classification](logits.float(), top_k)


def boxes_in_pixels(boxes_cxcywh: Tensor, size_hw: Tensor) -> Tensor:
    """Boxes [..., 4] in [0, 1] → xyxy in pixels of images of size [..., 2]."""
    height, width = size_hw.to(boxes_cxcywh).unbind(-1)
    return cxcywh_to_xyxy(boxes_cxcywh) * torch.stack([width, height, width, height], dim=-1)


def postprocess(
    output: DetectionOutput, sizes_hw: Tensor, top_k: int = 100, classification: str = "focal"
) -> list[dict[str, Tensor]]:
    """The best `top_k` pairs of query and class, as boxes in pixels of the original images.

    No threshold, no suppression, no clipping (released code). With "focal" a query may appear with several classes, with
    "softmax" only with its best.

    Parameters
    ----------
    output : of the detector
    sizes_hw : [B, 2], heights and widths of the original images, px
    top_k : how many pairs an image
    classification : how the logits are read: "focal", or "softmax" where the last column means no object

    Returns
    -------
    a dict an image: "scores" [k] in [0, 1], falling; "labels" int64 [k], class indices; "boxes" [k, 4], xyxy px; "queries"
    int64 [k], the query that each is from; what further heads predict for these queries, [k, …], by the heads' names
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
