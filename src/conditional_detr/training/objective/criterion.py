"""The set criterion: matching, then the losses of every decoder layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.errors import ConfigError
from conditional_detr.model.detr import DetectionOutput
from conditional_detr.training.objective.cell_boxes import cell_box_loss
from conditional_detr.training.objective.losses import LABELLED, Totals
from conditional_detr.training.objective.matcher import hungarian_match
from conditional_detr.training.objective.objectness import objectness_loss
from conditional_detr.training.objective.terms import FeatureTerm, Matched, Term, box_detection_terms

UNLABELLED = -1e9  # logit of a class that is not labelled in an image: its probability, loss and gradient are 0
LARGEST_RELATIVE_BOX = 2.0  # larger values are taken for boxes in pixels: relative boxes lie in [0, 1]


class SetCriterion(nn.Module):
    """Match queries with objects and sum the losses of all decoder layers.

    Call it with a `DetectionOutput` and one target per image: {"labels": int64 [M] in 0…K−1, "boxes": float32 [M, 4]
    (cx, cy, w, h) in [0, 1]}. It returns the weighted total "loss" and each unweighted term, see `forward`.

    If only the objects of some classes are labelled in an image, its target also has "labelled_classes", bool [K]. The logits
    of the other classes then have no part in the loss of this image.

    All losses are computed in float32, also if the model runs in bfloat16. Each term is divided by the number of objects in
    the batch (over all processes, at least 1). Images without objects are allowed and serve as background. DETR's "softmax"
    class loss is a weighted mean over queries instead, in which the class "no object" has a weight of 0.1.

    Source: Conditional DETR, section 3.4 and released code; for "softmax" DETR, section 3.1 and released code.

    Parameters
    ----------
    num_classes : number of classes, K
    classification : "focal" (K logits), "softmax" (K + 1 logits, the last is "no object"), or "ia_bce" (focal, but the target
        score of a matched query depends on how well its box fits, instead of being 1; Align-DETR)
    terms : terms of the matching cost and the loss; None = the paper's terms for that classification

    Examples
    --------
    >>> output = DetectionOutput(torch.zeros(1, 5, 3), torch.full((1, 5, 4), 0.5))
    >>> target = {"labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])}
    >>> sorted(SetCriterion(num_classes=3)(output, [target]))
    ['loss', 'loss_bbox', 'loss_ce', 'loss_giou']
    """

    def __init__(self, num_classes: int, classification: str = "focal", terms: Sequence[Term] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classification = classification
        self.terms = box_detection_terms(classification) if terms is None else list(terms)

    def forward(
        self, output: DetectionOutput, targets: list[dict[str, Tensor]], totals: Totals | None = None, groups: int = 1
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Parameters
        ----------
        output : output of the detector
        targets : one dict per image: "labels" int64 [M] in 0…K−1, "boxes" float32 [M, 4] (cx, cy, w, h) in [0, 1], and
            optionally "labelled_classes" bool [K]
        totals : normalisers of the terms, needed if these images are only a part of a batch; None = computed from `targets`
        groups : number of query groups, stored one after the other. Each group is matched separately, and the losses are
            averaged over the groups (Group DETR)

        Returns
        -------
        scalars: "loss", the weighted total over all layers; unweighted "loss_ce", "loss_bbox", "loss_giou" of the last layer
        and "loss_ce_0", … of the earlier layers. If reference points are chosen from the encoder's output, also
        "loss_objectness", and if boxes are predicted there "loss_cell_boxes". "loss" contains both with weight 1. In
        pre-training also "loss_feature", see `FeatureTerm`

        Raises
        ------
        ConfigError : a label is outside 0…K−1, boxes are in pixels, a key is missing, or the number of targets is wrong
        """
        with torch.autocast(output.pred_logits.device.type, enabled=False):
            pred = {name: groups_as_layers(layers.float(), groups) for name, layers in output.all_layers().items()}
            self._check(pred["logits"], targets)
            pred["logits"] = without_unlabelled(pred["logits"], targets)
            _, _, num_queries, _ = pred["logits"].shape
            counted = batch_totals(targets, num_queries, output.pred_logits.device) if totals is None else totals
            used = self.terms
            if output.patch_features is not None:  # in pre-training, the objects are patches
                _check_patches(targets, output.patch_features.shape[1])
                targets = [t | {"features": own} for t, own in zip(targets, output.patch_features.detach(), strict=True)]
                used = [*used, FeatureTerm(1.0)]
            matched = self._matched(pred, targets)
            terms = {term.name: term.loss(matched, counted).view(-1, groups).mean(1) for term in used}
            losses = {"loss": torch.as_tensor(sum(term.weight * terms[term.name].sum() for term in used))}
            if output.memory is not None and output.objectness is not None:
                losses["loss_objectness"] = objectness_loss(output.objectness, output.memory, targets) / counted.num_boxes
                losses["loss"] = losses["loss"] + losses["loss_objectness"]
            if output.memory is not None and output.cell_boxes is not None:
                losses["loss_cell_boxes"] = cell_box_loss(output.cell_boxes, output.memory, targets) / counted.num_boxes
                losses["loss"] = losses["loss"] + losses["loss_cell_boxes"]
        for name, values in terms.items():
            losses[name] = values[-1]
            losses |= {f"{name}_{i}": value for i, value in enumerate(values[:-1])}
        return losses

    def _matched(self, pred: dict[str, Tensor], targets: list[dict[str, Tensor]]) -> Matched:
        """Match the queries of every layer with the objects."""
        targets = [{key: value.float() if value.is_floating_point() else value for key, value in t.items()} for t in targets]

        def cost(image: int) -> Tensor:
            mine = {name: layers[:, image] for name, layers in pred.items()}
            costs = ((term.cost_weight, term.cost(mine, targets[image])) for term in self.terms)
            return torch.as_tensor(sum(weight * each for weight, each in costs if each is not None))

        layer, image, query, target = hungarian_match(cost, [len(t["labels"]) for t in targets], pred["logits"].device)
        of_objects = targets[0].keys() - {LABELLED}
        objects = {key: torch.cat([t[key] for t in targets])[target] for key in of_objects}
        return Matched(layer, image, query, pred, objects)

    def _check(self, logits: Tensor, targets: list[dict[str, Tensor]]) -> None:
        if len(targets) != logits.shape[1]:
            raise ConfigError(f"there must be one target per image: {logits.shape[1]} images, {len(targets)} targets")
        columns = self.num_classes + (self.classification == "softmax")
        if logits.shape[-1] != columns:
            raise ConfigError(
                f"for {self.num_classes} classes with {self.classification} there must be {columns} logits per query, "
                f"not {logits.shape[-1]}"
            )
        for i, t in enumerate(targets):
            if not {"labels", "boxes"} <= set(t):
                raise ConfigError(f"a target must have 'labels' and 'boxes'; target {i} has {', '.join(map(repr, t))}")
            if t.keys() != targets[0].keys():
                raise ConfigError(
                    f"all targets must have the keys of the first, {', '.join(targets[0])}; target {i} has different keys"
                )
            labels = t["labels"]
            if len(labels) and float(t["boxes"].max()) > LARGEST_RELATIVE_BOX:
                raise ConfigError(
                    f"boxes must be (cx, cy, w, h) in [0, 1] of the image; target {i} has up to {float(t['boxes'].max()):g}: "
                    "are they in pixels?"
                )
            if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < self.num_classes):
                raise ConfigError(
                    f"labels must be class indices from 0 to {self.num_classes - 1}; target {i} has "
                    f"{int(labels.min())} to {int(labels.max())}. Category ids are mapped to class indices when data are read"
                )
            if LABELLED in t:
                self._check_labelled(t[LABELLED], labels, i)

    def _check_labelled(self, labelled: Tensor, labels: Tensor, target: int) -> None:
        if labelled.shape != (self.num_classes,) or labelled.dtype != torch.bool:
            raise ConfigError(
                f"{LABELLED!r} must have one truth value for each of the {self.num_classes} classes; target {target} has "
                f"{labelled.dtype} of shape {tuple(labelled.shape)}"
            )
        if not labelled[labels].all():
            wrong = sorted(set(labels[~labelled[labels]].tolist()))
            raise ConfigError(f"target {target} has objects of classes that are not in its {LABELLED!r}: {wrong}")


def without_unlabelled(logits: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    """Remove the classes that are not labelled in an image from its logits [L, B, Q, K]: their probability becomes 0.

    They then add nothing to any class loss, and a softmax leaves them out. "No object" counts as labelled.
    """
    if LABELLED not in targets[0]:
        return logits
    labelled = torch.stack([t[LABELLED] for t in targets])
    labelled = F.pad(labelled, (0, logits.shape[-1] - labelled.shape[-1]), value=True)
    return logits.masked_fill(~labelled[None, :, None], UNLABELLED)


def groups_as_layers(x: Tensor, groups: int) -> Tensor:
    """Treat the query groups as additional layers: [L, B, G·Q, …] → [L·G, B, Q, …]."""
    layers, images, queries = x.shape[:3]
    return x.view(layers, images, groups, queries // groups, *x.shape[3:]).transpose(1, 2).flatten(0, 1)


def _check_patches(targets: list[dict[str, Tensor]], patches: int) -> None:
    for i, t in enumerate(targets):
        if len(t["boxes"]) != patches:
            raise ConfigError(
                f"in pre-training a target has one box for each patch, in their order: target {i} has {len(t['boxes'])} boxes, "
                f"and there are {patches} patches"
            )


def batch_totals(targets: list[dict[str, Tensor]], num_queries: int, device: torch.device) -> Totals:
    """Normalisers of the loss terms of a batch, averaged over processes.

    A batch without objects counts as one object over all processes together, so that the number of processes does not change
    the loss. (The released code counts one object in each process. This halves the loss of such a batch whenever the number
    of processes doubles.)
    """
    objects = [len(t["labels"]) for t in targets]
    answers = [min(count, num_queries) for count in objects]
    counts = torch.tensor([sum(objects), sum(answers), len(targets) * num_queries], dtype=torch.float32, device=device)
    world = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts)
        world = torch.distributed.get_world_size()
    return Totals(counts[0].clamp(min=1) / world, counts[1] / world, counts[2] / world)
