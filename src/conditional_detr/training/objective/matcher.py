"""Which query answers for which object: costs and the Hungarian assignment."""

from collections.abc import Callable, Sequence

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


def l1_cost(
    boxes_cxcywh: Float[Tensor, "*shape Q 4"], target_boxes_cxcywh: Float[Tensor, "M 4"]
) -> Float[Tensor, "*shape Q M"]:
    """Sum of the four absolute differences."""
    return (boxes_cxcywh[..., :, None, :] - target_boxes_cxcywh).abs().sum(-1)


def giou_cost(
    boxes_cxcywh: Float[Tensor, "*shape Q 4"], target_boxes_cxcywh: Float[Tensor, "M 4"]
) -> Float[Tensor, "*shape Q M"]:
    """−GIoU."""
    return -generalized_iou(cxcywh_to_xyxy(boxes_cxcywh)[..., :, None, :], cxcywh_to_xyxy(target_boxes_cxcywh))


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest one-to-one assignment of a [Q, M] block: queries and objects, min(Q, M) of each.

    A query whose cost is not finite is matched last, never crashes.
    """
    query, target = linear_sum_assignment(np.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=-1e9))
    return query, target


@torch.no_grad()
def hungarian_match(
    cost: Callable[[int], Float[Tensor, "L Q M"]], num_objects: Sequence[int], device: torch.device
) -> tuple[Int64[Tensor, "P"], Int64[Tensor, "P"], Int64[Tensor, "P"], Int64[Tensor, "P"]]:
    """Match every layer of every image. All costs leave the device in one transfer.

    Source: DETR, eq. 1. Only costs within an image are computed, never blocks between images.

    Parameters
    ----------
    cost : number of an image → what it would cost that each of its queries answers for each of its objects
    num_objects : of each image
    device : of the result

    Returns
    -------
    layer, image, query, target : int64 [P] each, one entry a matched pair; `target` counts over the whole batch
    """
    blocks = [cost(image) for image, count in enumerate(num_objects) if count]
    if not blocks:
        nothing = torch.zeros(0, dtype=torch.int64, device=device)
        return nothing, nothing, nothing, nothing
    costs = torch.cat(blocks, dim=-1).cpu().numpy()  # [L, Q, all objects]
    pairs = []
    start = 0
    for image, count in enumerate(num_objects):
        for layer in range(len(costs) if count else 0):
            query, target = assign(costs[layer, :, start : start + count])
            pairs.append(np.stack([np.full_like(query, layer), np.full_like(query, image), query, target + start]))
        start += count
    layer, image, query, target = torch.from_numpy(np.concatenate(pairs, axis=1)).to(device)
    return layer, image, query, target
