"""Terms of the set criterion. Each term has a loss and, if it takes part in matching, a matching cost."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

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
    """Predictions of all layers and the result of matching them with the targets: P pairs of a query and an object.

    Attributes
    ----------
    layer, image, query : int64 [P] each, indices of the query of each pair
    pred : predictions of each head by name, [L, B, Q, …] each
    target : the object of each pair, [P, …] each: "labels", "boxes" and all other values that targets have per object
    """

    layer: Int64[Tensor, " P"]
    image: Int64[Tensor, " P"]
    query: Int64[Tensor, " P"]
    pred: Values
    target: Values

    def pairs(self, name: str) -> Tensor:
        """Prediction of a head for the query of each matched pair, [P, …]."""
        return self.pred[name][self.layer, self.image, self.query]

    def sum_by_layer(self, values: Float[Tensor, " P"]) -> Float[Tensor, " L"]:
        """Sum the values of all pairs of each layer."""
        return sum_by(values, self.layer, len(self.pred["logits"]))


class Term:
    """One term of the loss. A term that does not take part in matching does not override `cost`.

    Parameters
    ----------
    weight : weight of its loss in the total loss
    cost_weight : weight of its cost in matching
    """

    name: str  # key of the term in the dict of losses

    def __init__(self, weight: float, cost_weight: float = 0.0) -> None:
        self.weight, self.cost_weight = weight, cost_weight

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"] | None:
        """Cost of matching each query [L, Q, …] of an image with each object [M, …]; None = no cost."""
        return None

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        """Unweighted loss of each layer."""
        raise NotImplementedError


class FocalClassTerm(Term):
    """Class loss: sigmoid focal loss (Conditional DETR)."""

    name = "loss_ce"

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"]:
        return focal_class_cost(pred["logits"], target["labels"])

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        logits = matched.pred["logits"]
        return focal_class_loss(logits, labels_of_queries(matched, logits.shape[-1]), totals)


class AlignedClassTerm(FocalClassTerm):
    """Class loss: focal loss in which the target score of a matched query depends on how well its box fits (Align-DETR)."""

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        logits = matched.pred["logits"]
        fit = torch.zeros_like(logits[..., 0])
        boxes = cxcywh_to_xyxy(matched.pairs("boxes").detach())
        fit[matched.layer, matched.image, matched.query] = iou(boxes, cxcywh_to_xyxy(matched.target["boxes"]))
        return focal_class_loss(logits, labels_of_queries(matched, logits.shape[-1]), totals, fit)


class SoftmaxClassTerm(Term):
    """Class loss: cross-entropy over all classes and "no object" (DETR)."""

    name = "loss_ce"

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"]:
        return softmax_class_cost(pred["logits"], target["labels"])

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        logits = matched.pred["logits"]
        return softmax_class_loss(logits, labels_of_queries(matched, logits.shape[-1] - 1), totals)


class L1Term(Term):
    """Box loss: sum of the absolute differences of centre, width and height."""

    name = "loss_bbox"

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"]:
        return l1_cost(pred["boxes"], target["boxes"])

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        return matched.sum_by_layer(l1_loss(matched.pairs("boxes"), matched.target["boxes"])) / totals.num_boxes


class GIoUTerm(Term):
    """Box loss: 1 − GIoU."""

    name = "loss_giou"

    def cost(self, pred: Values, target: Values) -> Float[Tensor, "L Q M"]:
        return giou_cost(pred["boxes"], target["boxes"])

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        return matched.sum_by_layer(giou_loss(matched.pairs("boxes"), matched.target["boxes"])) / totals.num_boxes


class FeatureTerm(Term):
    """Loss of the predicted features of patches: squared distance of the normalised vectors (UP-DETR)."""

    name = "loss_feature"

    def loss(self, matched: Matched, totals: Totals) -> Float[Tensor, " L"]:
        found, wanted = (F.normalize(x, dim=-1) for x in (matched.pairs("features"), matched.target["features"]))
        return matched.sum_by_layer((found - wanted).square().sum(-1)) / totals.num_boxes


def labels_of_queries(matched: Matched, num_classes: int) -> Int64[Tensor, "L B Q"]:
    """Class index of the object matched with each query; `num_classes` if there is none."""
    logits = matched.pred["logits"]
    labels = torch.full(logits.shape[:-1], num_classes, device=logits.device)
    labels[matched.layer, matched.image, matched.query] = matched.target["labels"]
    return labels


# Class loss → its term, and its weight in both matching and the loss (from the papers).
CLASS_TERMS: dict[str, tuple[type[Term], float]] = {
    "focal": (FocalClassTerm, 2.0),
    "softmax": (SoftmaxClassTerm, 1.0),
    "ia_bce": (AlignedClassTerm, 2.0),
}


def box_detection_terms(class_loss: str) -> list[Term]:
    """Build the terms for box detection with the weights of the papers.

    Source: Conditional DETR, section 3.4 and released code; for "softmax" DETR, section 3.1 and released code; for "ia_bce"
    Align-DETR (Cai et al., 2023) with Conditional DETR's weights.

    Raises
    ------
    ConfigError : the class loss is unknown
    """
    if class_loss not in CLASS_TERMS:
        raise ConfigError(f"there is no classification {class_loss!r}. {did_you_mean(class_loss, CLASS_TERMS)}")
    kind, weight = CLASS_TERMS[class_loss]
    return [kind(weight, weight), L1Term(5.0, 5.0), GIoUTerm(2.0, 2.0)]
