"""Terms of the set criterion: what each costs while matching, and what is lost where queries answer for objects."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from conditional_detr.boxes import cxcywh_to_xyxy, iou
from conditional_detr.errors import ConfigError, did_you_mean
from conditional_detr.training.objective.losses import (
    Totals,
    focal_class_loss,
    giou_loss,
    l1_loss,
    softmax_class_loss,
    sum_by,
)
from conditional_detr.training.objective.matcher import focal_class_cost, giou_cost, l1_cost, softmax_class_cost

Values = Mapping[str, Tensor]


class Matched(NamedTuple):
    """Predictions of all layers, targets of the whole batch, and which query answers for which object.

    Attributes
    ----------
    layer, image, query : int64 [P] each, an entry for each matched pair
    pred : what heads predict, [L, B, Q, …] each, by the heads' names
    target : of the objects of all matched pairs, [P, …] each: "labels", "boxes" and what else the targets hold
    """

    layer: Int64[Tensor, " P"]
    image: Int64[Tensor, " P"]
    query: Int64[Tensor, " P"]
    pred: Values
    target: Values

    def pairs(self, name: str) -> Tensor:
        """What a head predicts for the query of each matched pair, [P, …]."""
        return self.pred[name][self.layer, self.image, self.query]

    def sum_by_layer(self, values: Float[Tensor, " P"]) -> Float[Tensor, " L"]:
        """The sum over each layer's pairs."""
        return sum_by(values, self.layer, len(self.pred["logits"]))


class Term:
    """One term of the loss; one that matching does not look at has no `cost`.

    Parameters
    ----------
    weight, cost_weight : of its loss in the total, of its cost in matching
    """

    name: str  # of its loss

    def __init__(self, weight: float, cost_weight: float = 0.0) -> None:
        self.weight, self.cost_weight = weight, cost_weight

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"] | None:
        """What it would cost that a query [L, Q, …] of an image answers for an object [M, …]; None = nothing."""
        return None

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        """Of each layer, unweighted."""
        raise NotImplementedError


class FocalClassTerm(Term):
    """Sigmoid focal loss of classes (Conditional DETR)."""

    name = "loss_ce"

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"]:
        return focal_class_cost(pred["logits"], target["labels"])

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        logits = matched.pred["logits"]
        return focal_class_loss(logits, labels_of_queries(matched, logits.shape[-1]), totals)


class AlignedClassTerm(FocalClassTerm):
    """Focal loss, but a matched query learns how well its box fits instead of 1 (Align-DETR's IA-BCE)."""

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        logits = matched.pred["logits"]
        fit = torch.zeros_like(logits[..., 0])
        boxes = cxcywh_to_xyxy(matched.pairs("boxes").detach())
        fit[matched.layer, matched.image, matched.query] = iou(boxes, cxcywh_to_xyxy(matched.target["boxes"]))
        return focal_class_loss(logits, labels_of_queries(matched, logits.shape[-1]), totals, fit)


class SoftmaxClassTerm(Term):
    """Cross-entropy over all classes and no object (DETR)."""

    name = "loss_ce"

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"]:
        return softmax_class_cost(pred["logits"], target["labels"])

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        logits = matched.pred["logits"]
        return softmax_class_loss(logits, labels_of_queries(matched, logits.shape[-1] - 1), totals)


class L1Term(Term):
    """Sum of the absolute differences of centre, width and height."""

    name = "loss_bbox"

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"]:
        return l1_cost(pred["boxes"], target["boxes"])

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        return matched.sum_by_layer(l1_loss(matched.pairs("boxes"), matched.target["boxes"])) / totals.num_boxes


class GIoUTerm(Term):
    """1 − GIoU."""

    name = "loss_giou"

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"]:
        return giou_cost(pred["boxes"], target["boxes"])

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        return matched.sum_by_layer(giou_loss(matched.pairs("boxes"), matched.target["boxes"])) / totals.num_boxes


def labels_of_queries(matched: Matched, num_classes: int) -> Int64[Tensor, "L B Q"]:
    """The class that each query answers for; K where it answers for none."""
    logits = matched.pred["logits"]
    labels = torch.full(logits.shape[:-1], num_classes, device=logits.device)
    labels[matched.layer, matched.image, matched.query] = matched.target["labels"]
    return labels


# By the loss of classes: its class, and its weights in matching and in the loss (the papers').
CLASS_TERMS: dict[str, tuple[type[Term], float]] = {
    "focal": (FocalClassTerm, 2.0),
    "softmax": (SoftmaxClassTerm, 1.0),
    "ia_bce": (AlignedClassTerm, 2.0),
}


def box_detection_terms(class_loss: str) -> list[Term]:
    """The terms of a detector of boxes with the papers' weights.

    Source: Conditional DETR, section 3.4 and released code; for "softmax" DETR, section 3.1 and released code; for "ia_bce"
    Align-DETR (Cai et al., 2023) with Conditional DETR's weights.

    Raises
    ------
    ConfigError : an unknown loss of classes
    """
    if class_loss not in CLASS_TERMS:
        raise ConfigError(f"there is no classification {class_loss!r}. {did_you_mean(class_loss, CLASS_TERMS)}")
    kind, weight = CLASS_TERMS[class_loss]
    return [kind(weight, weight), L1Term(5.0, 5.0), GIoUTerm(2.0, 2.0)]
