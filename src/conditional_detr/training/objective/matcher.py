"""Which query answers for which object: costs and the Hungarian assignment."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from conditional_detr.boxes import cxcywh_to_xyxy, generalized_iou
from conditional_detr.training.objective.losses import FOCAL_ALPHA, FOCAL_GAMMA

EPSILON = 1e-8


def focal_class_cost(logits: Float[Tensor, "*shape Q K"], labels: Int64[Tensor, " M"]) -> Float[Tensor, "*shape Q M"]:
    """α(1−p)^γ(−log p) − (1−α)p^γ(−log(1−p)) of each query for each object's class (released code)."""
    p = logits[..., labels].sigmoid()
    positive = FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * -(p + EPSILON).log()
    negative = (1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * -(1 - p + EPSILON).log()
    return positive - negative


def softmax_class_cost(logits: Float[Tensor, "*shape Q K"], labels: Int64[Tensor, " M"]) -> Float[Tensor, "*shape Q M"]:
    """−p of each query for each object's class, p over all classes and no object (DETR)."""
    return -logits.softmax(-1)[..., labels]


CLASS_COSTS = {"focal": focal_class_cost, "softmax": softmax_class_cost}


def matching_cost(
    logits: Float[Tensor, "*shape Q K"],
    boxes_cxcywh: Float[Tensor, "*shape Q 4"],
    labels: Int64[Tensor, " M"],
    target_boxes_cxcywh: Float[Tensor, "M 4"],
    *,
    cost_class: float,
    cost_bbox: float,
    cost_giou: float,
    classification: str,
) -> Float[Tensor, "*shape Q M"]:
    """What it would cost that a query answers for an object: class, L1 and −GIoU, weighted.

    Source: DETR, eq. 1, with weights 1, 5, 2 and the softmax class cost; Conditional DETR has 2, 5, 2 and the focal one.
    Only the objects of one image: blocks between images are never computed.
    """
    distance = (boxes_cxcywh[..., :, None, :] - target_boxes_cxcywh).abs().sum(-1)
    overlap = generalized_iou(cxcywh_to_xyxy(boxes_cxcywh)[..., :, None, :], cxcywh_to_xyxy(target_boxes_cxcywh))
    return cost_class * CLASS_COSTS[classification](logits, labels) + cost_bbox * distance - cost_giou * overlap


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest one-to-one assignment of a [Q, M] block: queries and objects, min(Q, M) of each.

    A query whose cost is not finite is matched last, never crashes.
    """
    query, target = linear_sum_assignment(np.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=-1e9))
    return query, target


@torch.no_grad()
def match(
    logits: Float[Tensor, "L B Q K"],
    boxes_cxcywh: Float[Tensor, "L B Q 4"],
    targets: list[dict[str, Tensor]],
    **weights: Any,
) -> tuple[Int64[Tensor, "P"], Int64[Tensor, "P"], Int64[Tensor, "P"], Int64[Tensor, "P"]]:
    """Match every layer of every image.

    All costs are computed in float32 and leave the device in one transfer.

    Returns
    -------
    layer, image, query, target : int64 [P] each, one entry a matched pair; `target` counts over the whole batch
    """
    counts = [len(t["labels"]) for t in targets]
    blocks = [
        matching_cost(logits[:, b].float(), boxes_cxcywh[:, b].float(), t["labels"], t["boxes"].float(), **weights)
        for b, t in enumerate(targets)
        if counts[b]
    ]
    if not blocks:
        nothing = torch.zeros(0, dtype=torch.int64, device=logits.device)
        return nothing, nothing, nothing, nothing
    costs = torch.cat(blocks, dim=-1).cpu().numpy()  # [L, Q, all objects]
    pairs = []
    start = 0
    for image, count in enumerate(counts):
        for layer in range(len(costs) if count else 0):
            query, target = assign(costs[layer, :, start : start + count])
            pairs.append(np.stack([np.full_like(query, layer), np.full_like(query, image), query, target + start]))
        start += count
    layer, image, query, target = torch.from_numpy(np.concatenate(pairs, axis=1)).to(logits.device)
    return layer, image, query, target
