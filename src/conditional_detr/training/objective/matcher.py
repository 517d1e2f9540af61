"""Matching of queries and objects: costs and the Hungarian algorithm."""

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
    """Focal cost of each query for each object's class: α(1−p)^γ(−log p) − (1−α)p^γ(−log(1−p)) (released code)."""
    p = logits[..., labels].sigmoid()
    positive = FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * -(p + EPSILON).log()
    negative = (1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * -(1 - p + EPSILON).log()
    return positive - negative


def softmax_class_cost(logits: Float[Tensor, "*shape Q K"], labels: Int64[Tensor, " M"]) -> Float[Tensor, "*shape Q M"]:
    """Negative probability −p of each object's class for each query, by softmax over all classes and "no object" (DETR)."""
    return -logits.softmax(-1)[..., labels]


def l1_cost(
    boxes_cxcywh: Float[Tensor, "*shape Q 4"], target_boxes_cxcywh: Float[Tensor, "M 4"]
) -> Float[Tensor, "*shape Q M"]:
    """L1 distance of each predicted box to each object's box."""
    return (boxes_cxcywh[..., :, None, :] - target_boxes_cxcywh).abs().sum(-1)


def giou_cost(
    boxes_cxcywh: Float[Tensor, "*shape Q 4"], target_boxes_cxcywh: Float[Tensor, "M 4"]
) -> Float[Tensor, "*shape Q M"]:
    """Negative GIoU of each predicted box with each object's box."""
    return -generalized_iou(cxcywh_to_xyxy(boxes_cxcywh)[..., :, None, :], cxcywh_to_xyxy(target_boxes_cxcywh))


def assign(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the one-to-one assignment of queries and objects with the lowest total cost, for a cost matrix [Q, M].

    Costs that are not finite raise no error: a query with a cost of NaN or +∞ is matched last.

    Returns
    -------
    indices of the queries and of the objects, min(Q, M) each
    """
    query, target = linear_sum_assignment(np.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=-1e9))
    return query, target


@torch.no_grad()
def hungarian_match(
    cost: Callable[[int], Float[Tensor, "L Q M"]], num_objects: Sequence[int], device: torch.device
) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"], Int64[Tensor, " P"], Int64[Tensor, " P"]]:
    """Match queries and objects in every layer of every image.

    Costs are computed only within an image, not between images. They are copied from the device in a single transfer.

    Source: DETR, eq. 1.

    Parameters
    ----------
    cost : function from the index of an image to the cost of matching each of its queries with each of its objects
    num_objects : number of objects of each image
    device : device of the result

    Returns
    -------
    layer, image, query, target : int64 [P] each, one entry per matched pair. `target` indexes the objects of all images of
        the batch, one image after the other
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
