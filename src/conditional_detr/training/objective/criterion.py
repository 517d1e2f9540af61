"""The set criterion: matching, then the loss of every decoder layer."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from conditional_detr.boxes import cxcywh_to_xyxy, iou
from conditional_detr.errors import ConfigError, did_you_mean
from conditional_detr.model.detr import DetectionOutput
from conditional_detr.training.objective.losses import CLASS_LOSSES, Totals, giou_loss, l1_loss, sum_by
from conditional_detr.training.objective.matcher import CLASS_COSTS, match
from conditional_detr.training.objective.objectness import objectness_loss

MOST_OF_A_IMAGE = 2.0  # no box that is meant in [0, 1] comes near it


class Weights(NamedTuple):
    """Of the class, L1 and GIoU terms: first in the matching cost, then in the loss."""

    cost_class: float
    cost_bbox: float
    cost_giou: float
    loss_ce: float
    loss_bbox: float
    loss_giou: float


PAPER_WEIGHTS = {"focal": Weights(2.0, 5.0, 2.0, 2.0, 5.0, 2.0), "softmax": Weights(1.0, 5.0, 2.0, 1.0, 5.0, 2.0)}


class SetCriterion(nn.Module):
    """Match queries with objects and add up what is lost, over all decoder layers.

    Everything is computed in float32, whatever the model runs in. Each term is divided by the number of objects in the
    batch (over all processes, at least 1), so images without objects are ordinary: they teach what is background. DETR's
    "softmax" loss of classes is a mean over queries instead, in which no object has a tenth of the weight.

    It is called with a `DetectionOutput` and a target an image: {"labels": int64 [M] in 0…K−1, "boxes": float32 [M, 4]
    (cx, cy, w, h) in [0, 1]}; it returns the weighted total "loss" and each unweighted term, see `forward`.

    Source: Conditional DETR, section 3.4 and released code; for "softmax" DETR, section 3.1 and released code.

    Parameters
    ----------
    num_classes : K
    classification : "focal" (logits of K classes) or "softmax" (K + 1, the last is no object)
    weights : of costs and losses; None = the paper's for that classification
    aligned : "focal" classes of matched queries learn how well their box fits, not 1 (Align-DETR)

    Examples
    --------
    >>> output = DetectionOutput(torch.zeros(1, 5, 3), torch.full((1, 5, 4), 0.5))
    >>> target = {"labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}
    >>> sorted(SetCriterion(num_classes=3)(output, [target]))
    ['loss', 'loss_bbox', 'loss_ce', 'loss_giou']
    """

    def __init__(
        self, num_classes: int, classification: str = "focal", weights: Weights | None = None, aligned: bool = False
    ) -> None:
        super().__init__()
        if classification not in CLASS_COSTS:
            raise ConfigError(f"there is no classification {classification!r}. {did_you_mean(classification, CLASS_COSTS)}")
        self.num_classes = num_classes
        self.classification = classification
        self.aligned = aligned and classification == "focal"
        self.weights = PAPER_WEIGHTS[classification] if weights is None else weights

    def forward(
        self, output: DetectionOutput, targets: list[dict[str, Tensor]], totals: Totals | None = None, groups: int = 1
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Parameters
        ----------
        output : of the detector
        targets : an image each: "labels" int64 [M] in 0…K−1, "boxes" float32 [M, 4] (cx, cy, w, h) in [0, 1]
        totals : what the terms are divided by, where these images are a part of a batch; None = counted here
        groups : of queries, one after the other; each is matched by itself, and the losses are their mean (Group DETR)

        Returns
        -------
        "loss": the weighted total over all layers, and unweighted "loss_ce", "loss_bbox", "loss_giou" of the last layer,
        "loss_ce_0", … of the earlier ones; "loss_heat" where reference points come from the image (in "loss" with weight 1);
        scalars

        Raises
        ------
        ConfigError : a label outside 0…K−1, boxes in pixels, a key that is missing, or not one target an image
        """
        with torch.autocast(output.pred_logits.device.type, enabled=False):
            logits, boxes = (layers_of_groups(x, groups) for x in stack_layers(output))
            self._check(logits, targets)
            counted = batch_totals(targets, logits.shape[2], logits.device) if totals is None else totals
            terms = self._terms(logits, boxes, targets, counted)
            terms = {name: values.view(-1, groups).mean(1) for name, values in terms.items()}
            losses = {
                "loss": torch.as_tensor(sum(getattr(self.weights, name) * values.sum() for name, values in terms.items()))
            }
            if output.memory is not None and output.memory.heat is not None:
                losses["loss_heat"] = objectness_loss(output.memory, targets) / counted.num_boxes
                losses["loss"] = losses["loss"] + losses["loss_heat"]
        for name, values in terms.items():
            losses[name] = values[-1]
            losses |= {f"{name}_{i}": value for i, value in enumerate(values[:-1])}
        return losses

    def _terms(self, logits: Tensor, boxes: Tensor, targets: list[dict[str, Tensor]], counted: Totals) -> dict[str, Tensor]:
        """Each term of every layer, unweighted."""
        layers = len(logits)
        w = self.weights
        layer, image, query, target = match(
            logits, boxes, targets,
            cost_class=w.cost_class, cost_bbox=w.cost_bbox, cost_giou=w.cost_giou, classification=self.classification,
        )  # fmt: skip
        target_boxes = torch.cat([t["boxes"] for t in targets]).float()[target]
        matched_boxes = boxes[layer, image, query]
        labels = torch.full(logits.shape[:-1], self.num_classes, device=logits.device)
        labels[layer, image, query] = torch.cat([t["labels"] for t in targets])[target]
        arguments: list[Any] = [labels, counted]
        if self.aligned:
            fits = torch.zeros_like(logits[..., 0])
            fits[layer, image, query] = iou(cxcywh_to_xyxy(matched_boxes.detach()), cxcywh_to_xyxy(target_boxes))
            arguments.append(fits)
        return {
            "loss_ce": CLASS_LOSSES[self.classification](logits, *arguments),
            "loss_bbox": sum_by(l1_loss(matched_boxes, target_boxes), layer, layers) / counted.num_boxes,
            "loss_giou": sum_by(giou_loss(matched_boxes, target_boxes), layer, layers) / counted.num_boxes,
        }

    def _check(self, logits: Tensor, targets: list[dict[str, Tensor]]) -> None:
        if len(targets) != logits.shape[1]:
            raise ConfigError(f"there must be a target an image: {logits.shape[1]} images, {len(targets)} targets")
        columns = self.num_classes + (self.classification == "softmax")
        if logits.shape[-1] != columns:
            raise ConfigError(
                f"for {self.num_classes} classes with {self.classification} there must be {columns} logits a query, "
                f"not {logits.shape[-1]}"
            )
        for i, t in enumerate(targets):
            if not {"labels", "boxes"} <= set(t):
                raise ConfigError(f"a target must have 'labels' and 'boxes'; target {i} has {', '.join(map(repr, t))}")
            labels = t["labels"]
            if len(labels) and float(t["boxes"].max()) > MOST_OF_A_IMAGE:
                raise ConfigError(
                    f"boxes must be (cx, cy, w, h) in [0, 1] of the image; target {i} has up to {float(t['boxes'].max()):g}: "
                    "are they in pixels?"
                )
            if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < self.num_classes):
                raise ConfigError(
                    f"labels must be class indices from 0 to {self.num_classes - 1}; target {i} has "
                    f"{int(labels.min())} to {int(labels.max())}. Ids of a data set are mapped to indices when it is read"
                )


def stack_layers(output: DetectionOutput) -> tuple[Tensor, Tensor]:
    """Logits [L, B, Q, K] and boxes [L, B, Q, 4] of all layers, the last at the end, in float32."""
    logits, boxes = output.pred_logits[None], output.pred_boxes[None]
    if output.aux_logits is not None and output.aux_boxes is not None:
        logits = torch.cat([output.aux_logits, logits])
        boxes = torch.cat([output.aux_boxes, boxes])
    return logits.float(), boxes.float()


def layers_of_groups(x: Tensor, groups: int) -> Tensor:
    """[L, B, G·Q, …] → [L·G, B, Q, …]: to the losses a group is a layer more."""
    layers, images, queries = x.shape[:3]
    return x.view(layers, images, groups, queries // groups, -1).transpose(1, 2).flatten(0, 1)


def batch_totals(targets: list[dict[str, Tensor]], num_queries: int, device: torch.device) -> Totals:
    """What the terms of a batch are divided by, as means over processes.

    A batch without objects counts as one object in all of them together, so that several learn what one would. (The released
    code counts one object in each, which halves the loss of such a batch with every doubling of the processes.)
    """
    objects = [len(t["labels"]) for t in targets]
    answers = [min(count, num_queries) for count in objects]
    counts = torch.tensor([sum(objects), sum(answers), len(targets) * num_queries], dtype=torch.float32, device=device)
    world = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
        world = torch.distributed.get_world_size()
    return Totals(counts[0].clamp(min=1) / world, counts[1] / world, counts[2] / world)
