"""The set criterion against one that is written with scipy and torchvision."""

import dataclasses
import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from conditional_detr.errors import ConfigError
from conditional_detr.model.detr import DetectionOutput
from conditional_detr.training.objective.criterion import SetCriterion, batch_totals

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
    with pytest.raises(ConfigError, match="for 4 classes with focal there must be 4 logits a query, not 3"):
        SetCriterion(4)(output, [nothing, nothing])
    with pytest.raises(ConfigError, match="for 3 classes with softmax there must be 4 logits a query, not 3"):
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
    loss = SetCriterion(2, aligned=True)(DetectionOutput(logits, box), [target])["loss_ce"]
    p = 1 / (1 + math.exp(-0.4))
    wanted = p**0.25 * 0.5**0.75
    assert float(loss.detach()) == pytest.approx(-wanted * math.log(p) - (1 - wanted) * math.log(1 - p), abs=1e-5)
    loss.backward()
    assert float(logits.grad[0, 0, 1]) == pytest.approx(p - wanted, abs=1e-5)  # the target itself is no function of the logit


def test_softmax_scores_cannot_be_aligned_and_are_not():
    generator = torch.Generator().manual_seed(0)
    output = DetectionOutput(torch.randn(1, 4, 3, generator=generator), torch.full((1, 4, 4), 0.5))
    target = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]])}
    losses = [SetCriterion(2, "softmax", aligned=aligned)(output, [target])["loss"] for aligned in (False, True)]
    assert losses[0] == losses[1]
