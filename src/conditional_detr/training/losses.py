"""The terms of the loss, as arithmetic."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from conditional_detr.boxes import cxcywh_to_xyxy, generalized_iou


def sigmoid_focal_loss(
    logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*shape"]:
    """−α_t (1 − p_t)^γ log p_t, elementwise.

    Source: Lin et al., ICCV 2017, eq. 5.

    Parameters
    ----------
    logits : any shape
    targets : the same, 0 or 1
    """
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = probability * targets + (1 - probability) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * (1 - p_t) ** gamma * cross_entropy


def l1_loss(boxes_cxcywh: Float[Tensor, "P 4"], targets_cxcywh: Float[Tensor, "P 4"]) -> Float[Tensor, " P"]:
    """Sum of the four absolute differences, in the boxes' unit."""
    return (boxes_cxcywh - targets_cxcywh).abs().sum(-1)


def giou_loss(boxes_cxcywh: Float[Tensor, "P 4"], targets_cxcywh: Float[Tensor, "P 4"]) -> Float[Tensor, " P"]:
    """1 − GIoU, in [0, 2]."""
    return 1 - generalized_iou(cxcywh_to_xyxy(boxes_cxcywh), cxcywh_to_xyxy(targets_cxcywh))


def sum_by(values: Float[Tensor, " P"], group: Tensor, groups: int) -> Float[Tensor, " G"]:
    """Sum of the values of each group."""
    return torch.zeros(groups, dtype=values.dtype, device=values.device).index_add(0, group, values)
