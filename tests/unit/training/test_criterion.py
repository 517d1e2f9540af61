"""The set criterion against one that is written with scipy and torchvision."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from conditional_detr.errors import ConfigError
from conditional_detr.model.detr import DetectionOutput
from conditional_detr.training.objective.criterion import SetCriterion, batch_totals
from conditional_detr.training.objective.terms import Term, box_detection_terms

LAYERS, BATCH, QUERIES, CLASSES = 3, 4, 40, 7


def xyxy(boxes: torch.Tensor) -> torch.Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


def oracle(logits: torch.Tensor, boxes: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    count = max(1, sum(len(t["labels"]) for t in targets))
    total = torch.zeros(())
    for layer_logits, layer_boxes in zip(logits, boxes, strict=True):
        one_hot, regression = torch.zeros_like(layer_logits), torch.zeros(())
        for j, t in enumerate(targets):
            if not len(t["labels"]):
                continue
            with torch.no_grad():
                p = layer_logits[j].sigmoid()[:, t["labels"]]
                positive, negative = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log(), 0.75 * p**2 * -(1 - p + 1e-8).log()
                distance = torch.cdist(layer_boxes[j], t["boxes"], p=1)
                overlap = generalized_box_iou(xyxy(layer_boxes[j]), xyxy(t["boxes"]))
                cost = 2 * (positive - negative) + 5 * distance - 2 * overlap
                query, target = (torch.as_tensor(v) for v in linear_sum_assignment(cost.numpy()))
            one_hot[j, query, t["labels"][target]] = 1
            mine, theirs = layer_boxes[j, query], t["boxes"][target]
            regression = regression + 5 * (mine - theirs).abs().sum()
            regression = regression + 2 * generalized_box_iou_loss(xyxy(mine), xyxy(theirs), "sum")
        total = total + (2 * sigmoid_focal_loss(layer_logits, one_hot, 0.25, 2, "sum") + regression) / count
    return total


def random_targets(counts: list[int], generator: torch.Generator) -> list[dict[str, torch.Tensor]]:
    targets = []
    for n in counts:
        size = torch.rand(n, 2, generator=generator) * 0.3 + 0.02
        centre = size / 2 + torch.rand(n, 2, generator=generator) * (1 - size)
        targets.append({"labels": torch.randint(CLASSES, (n,), generator=generator), "boxes": torch.cat([centre, size], 1)})
    return targets


def record(logits: torch.Tensor, boxes: torch.Tensor) -> DetectionOutput:
    return DetectionOutput(logits[-1], boxes[-1], logits[:-1], boxes[:-1])


@pytest.mark.parametrize("counts", [[20, 45, 0, 7], [0, 0, 0, 0]], ids=["crowded", "empty"])
def test_value_and_gradient_equal_the_oracles(counts: list[int]):
    generator = torch.Generator().manual_seed(1)
    targets = random_targets(counts, generator)
    if counts[0]:  # twins
        targets[0]["boxes"][1], targets[0]["labels"][1] = targets[0]["boxes"][0], targets[0]["labels"][0]
    logits = torch.randn(LAYERS, BATCH, QUERIES, CLASSES, generator=generator) * 1.5 - 2
    boxes = torch.rand(LAYERS, BATCH, QUERIES, 4, generator=generator) * 0.3 + 0.2
    results = []
    for ours in (True, False):
        a, b = logits.clone().requires_grad_(), boxes.clone().requires_grad_()
        loss = SetCriterion(CLASSES)(record(a, b), targets)["loss"] if ours else oracle(a, b, targets)
        loss.backward()
        results.append((loss.detach(), a.grad, torch.zeros_like(b) if b.grad is None else b.grad))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classification", ["focal", "softmax"])
def test_parts_of_a_batch_that_are_divided_by_the_batchs_totals_add_up_to_it(classification: str):
    generator = torch.Generator().manual_seed(5)
    targets = random_targets([3, 45, 0, 7], generator)  # 45 objects are more than the queries
    columns = CLASSES + (classification == "softmax")
    logits = torch.randn(LAYERS, BATCH, QUERIES, columns, generator=generator)
    boxes = torch.rand(LAYERS, BATCH, QUERIES, 4, generator=generator) * 0.3 + 0.2
    criterion = SetCriterion(CLASSES, classification)
    whole = criterion(record(logits, boxes), targets)
    totals = batch_totals(targets, QUERIES, logits.device)
    halves = [criterion(record(logits[:, part], boxes[:, part]), targets[part], totals) for part in (slice(0, 1), slice(1, 4))]
    for name, value in whole.items():
        torch.testing.assert_close(sum(half[name] for half in halves), value, atol=1e-5, rtol=1e-5)


def test_the_total_is_the_weighted_sum_of_all_layers_terms():
    generator = torch.Generator().manual_seed(2)
    targets = random_targets([3, 2], generator)
    output = record(torch.randn(LAYERS, 2, QUERIES, CLASSES), torch.rand(LAYERS, 2, QUERIES, 4) * 0.3 + 0.2)
    losses = SetCriterion(CLASSES)(output, targets)
    total = sum(
        weight * losses[name + layer]
        for name, weight in (("loss_ce", 2), ("loss_bbox", 5), ("loss_giou", 2))
        for layer in ("", "_0", "_1")
    )
    torch.testing.assert_close(losses["loss"], total)
    last = dataclasses.replace(output, aux_logits=None, aux_boxes=None)
    torch.testing.assert_close(SetCriterion(CLASSES)(last, targets)["loss_giou"], losses["loss_giou"])


def test_losses_are_float32_under_autocast_and_for_a_bfloat16_model():
    generator = torch.Generator().manual_seed(3)
    targets = random_targets([4, 4], generator)
    output = record(torch.randn(2, 2, QUERIES, CLASSES).bfloat16(), (torch.rand(2, 2, QUERIES, 4) * 0.3 + 0.2).bfloat16())
    tensors = output.pred_logits, output.pred_boxes, output.aux_logits, output.aux_boxes
    exact = SetCriterion(CLASSES)(DetectionOutput(*(t.float() for t in tensors)), targets)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        losses = SetCriterion(CLASSES)(output, targets)
    assert losses["loss"].dtype == torch.float32
    torch.testing.assert_close(losses["loss"], exact)


def test_predictions_that_are_not_finite_give_a_loss_that_is_not_finite_and_no_assertion():
    targets = random_targets([2], torch.Generator().manual_seed(4))
    output = DetectionOutput(torch.full((1, 5, CLASSES), torch.nan), torch.full((1, 5, 4), torch.nan))
    assert not SetCriterion(CLASSES)(output, targets)["loss"].isfinite()


def test_a_label_outside_the_classes_is_refused_with_both_ranges():
    output = DetectionOutput(torch.zeros(1, 5, 3), torch.full((1, 5, 4), 0.5))
    target = {"labels": torch.tensor([3]), "boxes": torch.full((1, 4), 0.5)}
    with pytest.raises(ConfigError, match=r"class indices from 0 to 2; target 0 has 3 to 3"):
        SetCriterion(3)(output, [target])


def test_the_number_of_targets_and_of_classes_must_fit():
    output = DetectionOutput(torch.zeros(2, 5, 3), torch.full((2, 5, 4), 0.5))
    nothing = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    with pytest.raises(ConfigError, match="2 images, 1 targets"):
        SetCriterion(3)(output, [nothing])
    with pytest.raises(ConfigError, match="for 4 classes with focal there must be 4 logits per query, not 3"):
        SetCriterion(4)(output, [nothing, nothing])
    with pytest.raises(ConfigError, match="for 3 classes with softmax there must be 4 logits per query, not 3"):
        SetCriterion(3, classification="softmax")(output, [nothing, nothing])
    with pytest.raises(ConfigError, match="there is no classification 'focl'. Did you mean focal?"):
        SetCriterion(3, classification="focl")


def test_targets_of_another_kind_are_refused():
    output = DetectionOutput(torch.zeros(1, 5, 3), torch.full((1, 5, 4), 0.5))
    labels = torch.tensor([0])
    with pytest.raises(ConfigError, match=r"boxes must be \(cx, cy, w, h\) in \[0, 1\] .*has up to 50: are they in pixels"):
        SetCriterion(3)(output, [{"labels": labels, "boxes": torch.tensor([[50.0, 50, 20, 20]])}])
    with pytest.raises(ConfigError, match="must have 'labels' and 'boxes'; target 0 has 'class_labels', 'boxes'"):
        SetCriterion(3)(output, [{"class_labels": labels, "boxes": torch.zeros(1, 4)}])


def test_aligned_scores_learn_how_well_their_box_fits():
    """One query, one object: the class term is the cross-entropy with p^0.25 · IoU^0.75, by hand."""
    box = torch.tensor([[[0.5, 0.5, 0.4, 0.4]]])
    target = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}  # IoU 1/2
    logits = torch.tensor([[[-20.0, 0.4]]], requires_grad=True)
    loss = SetCriterion(2, "ia_bce")(DetectionOutput(logits, box), [target])["loss_ce"]
    p = 1 / (1 + math.exp(-0.4))
    wanted = p**0.25 * 0.5**0.75
    assert float(loss.detach()) == pytest.approx(-wanted * math.log(p) - (1 - wanted) * math.log(1 - p), abs=1e-5)
    loss.backward()
    assert float(logits.grad[0, 0, 1]) == pytest.approx(p - wanted, abs=1e-5)  # the target itself is no function of the logit


def test_aligned_scores_are_matched_as_focal_ones_and_only_their_class_term_differs():
    generator = torch.Generator().manual_seed(5)
    targets = random_targets([3, 4], generator)
    output = record(torch.randn(LAYERS, 2, QUERIES, CLASSES), torch.rand(LAYERS, 2, QUERIES, 4) * 0.3 + 0.2)
    focal, aligned = (SetCriterion(CLASSES, kind)(output, targets) for kind in ("focal", "ia_bce"))
    differ = {name for name in focal if not focal[name].equal(aligned[name])}
    assert differ == {"loss", "loss_ce", "loss_ce_0", "loss_ce_1"}


def test_the_loss_of_classes_is_that_of_the_models_logits_and_ia_bce_has_no_column_for_nothing():
    output = DetectionOutput(torch.zeros(1, 5, 4), torch.full((1, 5, 4), 0.5))
    nothing = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    with pytest.raises(ConfigError, match="for 3 classes with ia_bce there must be 3 logits per query, not 4"):
        SetCriterion(3, "ia_bce")(output, [nothing])


@dataclass(frozen=True)
class WithDepth(DetectionOutput):
    """The record of a detector with a further head: one number a query."""

    pred_depth: torch.Tensor | None = None
    aux_depth: torch.Tensor | None = None


class DepthTerm(Term):
    name = "loss_depth"

    def cost(self, pred, target):
        return (pred["depth"][..., :, None] - target["depth"]).abs()

    def loss(self, matched, totals):
        return matched.sum_by_layer((matched.pairs("depth") - matched.target["depth"]).abs()) / totals.num_boxes


def test_predictions_by_name_hold_all_layers_the_last_one_at_the_end():
    logits, boxes, depth = torch.randn(3, 2, 5, 4), torch.rand(3, 2, 5, 4), torch.randn(3, 2, 5)
    output = WithDepth(logits[-1], boxes[-1], logits[:-1], boxes[:-1], pred_depth=depth[-1], aux_depth=depth[:-1])
    for name, layers in (("logits", logits), ("boxes", boxes), ("depth", depth)):
        assert output.all_layers()[name].equal(layers)
    alone = dataclasses.replace(output, aux_logits=None, aux_boxes=None, aux_depth=None)
    assert {name: layers.shape[0] for name, layers in alone.all_layers().items()} == {"logits": 1, "boxes": 1, "depth": 1}
    assert alone.all_layers()["depth"].equal(depth[-1:])
    assert set(dataclasses.replace(output, pred_depth=None).all_layers()) == {"logits", "boxes"}
    assert set(record(logits, boxes).all_layers()) == {"logits", "boxes"}


def with_depths(depth: torch.Tensor) -> tuple[WithDepth, list[dict[str, torch.Tensor]]]:
    """Queries that differ in nothing but their depth, and two objects at 0.3 and 0.7, of a first image."""
    layers, images, queries = depth.shape
    logits, boxes = torch.zeros(layers, images, queries, 3), torch.full((layers, images, queries, 4), 0.5)
    output = WithDepth(logits[-1], boxes[-1], logits[:-1], boxes[:-1], pred_depth=depth[-1], aux_depth=depth[:-1])
    two = {"labels": torch.tensor([1, 1]), "boxes": torch.full((2, 4), 0.5), "depth": torch.tensor([0.3, 0.7])}
    return output, [two, {key: value[:0] for key, value in two.items()}]


def test_a_further_term_takes_part_in_matching_and_in_the_loss():
    depth = torch.tensor([[[0.1, 0.72, 0.9, 0.31], [5.0] * 4], [[0.3, 5.0, 0.6, 5.0], [5.0] * 4]], requires_grad=True)
    output, targets = with_depths(depth)
    criterion = SetCriterion(3, terms=[*box_detection_terms("focal"), DepthTerm(weight=3.0, cost_weight=1.0)])
    losses = criterion(output, targets)
    assert float(losses["loss_depth_0"].detach()) == pytest.approx((0.02 + 0.01) / 2, abs=1e-6)
    assert float(losses["loss_depth"].detach()) == pytest.approx((0.0 + 0.1) / 2, abs=1e-6)
    plain = SetCriterion(3)(output, targets)["loss"]
    torch.testing.assert_close(losses["loss"], plain + 3 * (losses["loss_depth"] + losses["loss_depth_0"]))
    losses["loss"].backward()
    assert depth.grad.ne(0).tolist() == [
        [[False, True, False, True], [False] * 4],
        [[False, False, True, False], [False] * 4],  # the first is right already
    ]


def test_a_further_term_is_the_mean_over_groups_of_queries():
    depth = torch.tensor([[[0.3, 0.7, 0.4, 0.9], [5.0] * 4]])
    output, targets = with_depths(depth)
    criterion = SetCriterion(3, terms=[*box_detection_terms("focal"), DepthTerm(weight=1.0, cost_weight=1.0)])
    assert float(criterion(output, targets, groups=2)["loss_depth"]) == pytest.approx((0.0 + 0.3) / 2 / 2, abs=1e-6)
    assert float(criterion(output, targets)["loss_depth"]) == pytest.approx(0.0, abs=1e-6)


def test_a_term_without_a_cost_moves_no_match():
    class Silent(DepthTerm):
        def cost(self, pred, target):
            return None

    generator = torch.Generator().manual_seed(6)
    targets = [t | {"depth": torch.zeros(len(t["labels"]))} for t in random_targets([3, 2], generator)]
    logits, boxes = torch.randn(2, 2, 9, CLASSES), torch.rand(2, 2, 9, 4) * 0.3 + 0.2
    depth = 100 * torch.rand(2, 2, 9)
    output = WithDepth(logits[-1], boxes[-1], logits[:-1], boxes[:-1], pred_depth=depth[-1], aux_depth=depth[:-1])
    silent, loud = (
        SetCriterion(CLASSES, terms=[*box_detection_terms("focal"), kind(0.0, 1.0)])(output, targets)
        for kind in (Silent, DepthTerm)
    )
    plain = SetCriterion(CLASSES)(output, targets)
    assert all(silent[name].equal(value) for name, value in plain.items())
    assert loud["loss_giou"] > plain["loss_giou"]
