"""The loss functions."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from conditional_detr.boxes import cxcywh_to_xyxy, generalized_iou

LABELLED = "labelled_classes"  # key of a target: bool [K], the classes whose objects are labelled in the image; absent = all
NO_OBJECT_WEIGHT = 0.1
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
IA_BCE_ALPHA, LEAST_TARGET = 0.25, 0.01


class Totals(NamedTuple):
    """Normalisers of the loss terms: scalar counts over a complete batch, averaged over processes.

    Attributes
    ----------
    num_boxes : number of objects in all images, at least 1 over all processes
    num_matched : number of queries matched with an object in each layer
    num_queries : number of queries in all images
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
    targets : 0 or 1, same shape as `logits`
    """
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = probability * targets + (1 - probability) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * (1 - p_t) ** gamma * cross_entropy


def ia_bce_loss(logits: Float[Tensor, " P"], iou: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
    """IA-BCE loss of matched queries: binary cross-entropy with the target t = p^α · IoU^(1−α), α = 0.25.

    A query is trained to give a high score only if its box fits well.

    Source: IA-BCE loss of Align-DETR (Cai et al., 2023).

    Parameters
    ----------
    logits : logit of the matched object's class
    iou : IoU of the predicted box with the object's box, in [0, 1]
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

    Nearly all entries are background, whose loss is (1 − α) p² log(1 + eˣ). All entries are first summed as background, then
    the few matched ones are corrected. This takes a third of the work of `sigmoid_focal_loss` on all entries.

    Parameters
    ----------
    logits : logits of the K classes
    labels : class index of the object matched with each query; K if there is none
    totals : normalisers of the batch
    iou : IoU of each query's box with its matched object's box. If given, matched entries use `ia_bce_loss`
    """
    background = (1 - FOCAL_ALPHA) * (logits.sigmoid() ** FOCAL_GAMMA * F.softplus(logits)).sum((1, 2, 3))
    layer, image, query = answers = (labels < logits.shape[-1]).nonzero(as_tuple=True)
    answering = logits[layer, image, query, labels[answers]]
    wanted = sigmoid_focal_loss(answering, torch.ones_like(answering)) if iou is None else ia_bce_loss(answering, iou[answers])
    correction = wanted - sigmoid_focal_loss(answering, torch.zeros_like(answering))
    return (background + sum_by(correction, layer, len(logits))) / totals.num_boxes


def softmax_class_loss(logits: Float[Tensor, "L B Q K"], labels: Int64[Tensor, "L B Q"], totals: Totals) -> Float[Tensor, " L"]:
    """Cross-entropy over all classes and "no object", as a weighted mean over queries (DETR).

    The class "no object" has a weight of 0.1.

    Parameters
    ----------
    logits : logits of the K classes and, last, of "no object"
    labels, totals : as in `focal_class_loss`
    """
    weight = logits.new_ones(logits.shape[-1])
    weight[-1] = NO_OBJECT_WEIGHT
    lost = F.cross_entropy(logits.movedim(-1, 1), labels, weight, reduction="none")
    return lost.sum((1, 2)) / (totals.num_matched + NO_OBJECT_WEIGHT * (totals.num_queries - totals.num_matched))


def l1_loss(boxes_cxcywh: Float[Tensor, "P 4"], targets_cxcywh: Float[Tensor, "P 4"]) -> Float[Tensor, " P"]:
    """L1 distance of each pair of boxes: the sum of the four absolute differences, in the unit of the boxes."""
    return (boxes_cxcywh - targets_cxcywh).abs().sum(-1)


def giou_loss(boxes_cxcywh: Float[Tensor, "P 4"], targets_cxcywh: Float[Tensor, "P 4"]) -> Float[Tensor, " P"]:
    """1 − GIoU, in [0, 2]."""
    return 1 - generalized_iou(cxcywh_to_xyxy(boxes_cxcywh), cxcywh_to_xyxy(targets_cxcywh))


def sum_by(values: Float[Tensor, " P"], group: Tensor, groups: int) -> Float[Tensor, " G"]:
    """Sum of the values of each group."""
    return torch.zeros(groups, dtype=values.dtype, device=values.device).index_add(0, group, values)
