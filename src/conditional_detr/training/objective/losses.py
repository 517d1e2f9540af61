"""The terms of the loss, as arithmetic."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from conditional_detr.boxes import cxcywh_to_xyxy, generalized_iou

NO_OBJECT_WEIGHT = 0.1
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
IA_BCE_ALPHA, LEAST_TARGET = 0.25, 0.01


class Totals(NamedTuple):
    """What terms are divided by: counts over a whole batch, as means over processes; scalars.

    Attributes
    ----------
    num_boxes : in all images, at least 1
    num_matched : queries that a layer matches with an object
    num_queries : in all images
    """

    num_boxes: Tensor
    num_matched: Tensor
    num_queries: Tensor


def sigmoid_focal_loss(
    logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"], alpha: float = FOCAL_ALPHA, gamma: float = FOCAL_GAMMA
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


def ia_bce_loss(logits: Float[Tensor, " P"], iou: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """Cross-entropy with t = p^α · IoU^(1−α), α = 0.25, of logits that answer for an object: sure only of boxes that fit.

    Source: Align-DETR (Cai et al., 2023), its IA-BCE loss.

    Parameters
    ----------
    logits : of the object's class
    iou : of the predicted box with the object's, in [0, 1]
    """
    target = logits.detach().sigmoid() ** IA_BCE_ALPHA * iou ** (1 - IA_BCE_ALPHA)
    return F.binary_cross_entropy_with_logits(logits, target.clamp(min=LEAST_TARGET), reduction="none")


def focal_class_loss(
    logits: Float[Tensor, "L B Q K"],
    labels: Int64[Tensor, "L B Q"],
    totals: Totals,
    iou: Float[Tensor, "L B Q"] | None = None,
) -> Float[Tensor, " L"]:
    """Sigmoid focal loss of every query and class, divided by the number of objects (Conditional DETR).

    Nearly all of these are background, whose loss is (1 − α) p² log(1 + eˣ): all are added up as such, and the few that
    answer for an object are corrected. That is a third of the work of `sigmoid_focal_loss` on the whole.

    Parameters
    ----------
    logits : of K classes
    labels : the class that each query answers for; K where it answers for none
    totals : of the batch
    iou : of each query's box with its object's; given, a query that answers learns `ia_bce_loss` instead
    """
    background = (1 - FOCAL_ALPHA) * (logits.sigmoid() ** FOCAL_GAMMA * F.softplus(logits)).sum((1, 2, 3))
    layer, image, query = answers = (labels < logits.shape[-1]).nonzero(as_tuple=True)
    answering = logits[layer, image, query, labels[answers]]
    wanted = sigmoid_focal_loss(answering, torch.ones_like(answering)) if iou is None else ia_bce_loss(answering, iou[answers])
    correction = wanted - sigmoid_focal_loss(answering, torch.zeros_like(answering))
    return (background + sum_by(correction, layer, len(logits))) / totals.num_boxes


def softmax_class_loss(logits: Float[Tensor, "L B Q K"], labels: Int64[Tensor, "L B Q"], totals: Totals) -> Float[Tensor, " L"]:
    """Cross-entropy over all classes and no object; the latter has a tenth of the weight, and the mean is weighted (DETR).

    Parameters
    ----------
    logits : of K classes and, last, no object
    labels, totals : as for `focal_class_loss`
    """
    weight = logits.new_ones(logits.shape[-1])
    weight[-1] = NO_OBJECT_WEIGHT
    lost = F.cross_entropy(logits.movedim(-1, 1), labels, weight, reduction="none")
    return lost.sum((1, 2)) / (totals.num_matched + NO_OBJECT_WEIGHT * (totals.num_queries - totals.num_matched))


def l1_loss(boxes_cxcywh: Float[Tensor, "P 4"], targets_cxcywh: Float[Tensor, "P 4"]) -> Float[Tensor, " P"]:
    """Sum of the four absolute differences, in the boxes' unit."""
    return (boxes_cxcywh - targets_cxcywh).abs().sum(-1)


def giou_loss(boxes_cxcywh: Float[Tensor, "P 4"], targets_cxcywh: Float[Tensor, "P 4"]) -> Float[Tensor, " P"]:
    """1 − GIoU, in [0, 2]."""
    return 1 - generalized_iou(cxcywh_to_xyxy(boxes_cxcywh), cxcywh_to_xyxy(targets_cxcywh))


def sum_by(values: Float[Tensor, " P"], group: Tensor, groups: int) -> Float[Tensor, " G"]:
    """Sum of the values of each group."""
    return torch.zeros(groups, dtype=values.dtype, device=values.device).index_add(0, group, values)
