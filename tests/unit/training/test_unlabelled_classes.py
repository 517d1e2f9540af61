"""Images in which only some classes are labelled: what is not labelled is not background."""

import pytest
import torch
from torch.nn import functional as F

from conditional_detr.errors import ConfigError
from conditional_detr.model.detr import DetectionOutput
from conditional_detr.training.objective.criterion import SetCriterion
from conditional_detr.training.objective.dense_aux import DenseClassifier
from conditional_detr.training.objective.objectness import objectness_loss
from models import memory_like

CLASSES, QUERIES, LAYERS, GROUPS = 5, 6, 2, 3
LABELLED = torch.tensor([True, False, True, False, True])


def partly_labelled() -> list[dict[str, torch.Tensor]]:
    """One image with labels of classes 0, 2 and 4, and one with all."""
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.2]])
    return [
        {"labels": torch.tensor([0, 4]), "boxes": boxes, "labelled_classes": LABELLED},
        {"labels": torch.tensor([1, 3]), "boxes": boxes, "labelled_classes": torch.ones(CLASSES, dtype=torch.bool)},
    ]


def predictions(columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(LAYERS, 2, GROUPS * QUERIES, columns, generator=generator)
    return logits.requires_grad_(), torch.rand(LAYERS, 2, GROUPS * QUERIES, 4, generator=generator) * 0.4 + 0.2


def loss_of(criterion: SetCriterion, logits: torch.Tensor, boxes: torch.Tensor, targets: list) -> torch.Tensor:
    output = DetectionOutput(logits[-1], boxes[-1], logits[:-1], boxes[:-1])
    return criterion(output, targets, groups=GROUPS)["loss"]


@pytest.mark.parametrize("classification", ["focal", "ia_bce", "softmax"])
def test_unlabelled_classes_have_no_loss_in_any_layer_group_or_query(classification: str):
    logits, boxes = predictions(CLASSES + (classification == "softmax"))
    criterion = SetCriterion(CLASSES, classification)
    loss = loss_of(criterion, logits, boxes, partly_labelled())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[:, 0][..., [1, 3]] == 0).all()
    assert (gradient[:, 0][..., [0, 2, 4]] != 0).all()
    assert (gradient[:, 1] != 0).all()  # the second image is labelled in full
    changed = logits.detach().clone()
    changed[:, 0, :, [1, 3]] += torch.randn(LAYERS, GROUPS * QUERIES, 2)
    torch.testing.assert_close(loss_of(criterion, changed, boxes, partly_labelled()), loss.detach(), atol=0, rtol=0)


@pytest.mark.parametrize("classification", ["focal", "ia_bce", "softmax"])
def test_the_loss_is_that_of_a_model_without_the_unlabelled_classes(classification: str):
    logits, boxes = predictions(CLASSES + (classification == "softmax"))
    (first, _) = partly_labelled()
    kept = [0, 2, 4, *([CLASSES] if classification == "softmax" else [])]
    fewer = {"labels": torch.tensor([0, 2]), "boxes": first["boxes"]}
    expected = loss_of(SetCriterion(3, classification), logits[:, :1][..., kept], boxes[:, :1], [fewer])
    found = loss_of(SetCriterion(CLASSES, classification), logits[:, :1], boxes[:, :1], [first])
    torch.testing.assert_close(found, expected)


def test_all_classes_labelled_is_the_same_as_no_list():
    logits, boxes = predictions(CLASSES)
    full = [each | {"labelled_classes": torch.ones(CLASSES, dtype=torch.bool)} for each in partly_labelled()]
    plain = [{key: value for key, value in each.items() if key != "labelled_classes"} for each in full]
    losses = [loss_of(SetCriterion(CLASSES), logits, boxes, targets) for targets in (full, plain)]
    torch.testing.assert_close(*losses, atol=0, rtol=0)


def test_a_list_of_another_length_is_refused():
    logits, boxes = predictions(CLASSES)
    wrong = [each | {"labelled_classes": torch.ones(3, dtype=torch.bool)} for each in partly_labelled()]
    with pytest.raises(
        ConfigError, match=r"one truth value for each of the 5 classes; target 0 has torch.bool of shape \(3,\)"
    ):
        loss_of(SetCriterion(CLASSES), logits, boxes, wrong)


def test_an_object_of_an_unlabelled_class_is_refused():
    logits, boxes = predictions(CLASSES)
    wrong = partly_labelled()
    wrong[0]["labels"] = torch.tensor([0, 3])
    with pytest.raises(ConfigError, match=r"target 0 has objects of classes that are not in its 'labelled_classes': \[3\]"):
        loss_of(SetCriterion(CLASSES), logits, boxes, wrong)


def cells(side: int = 8) -> torch.Tensor:
    steps = (torch.arange(side) + 0.5) / side
    return torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).view(1, -1, 2)


def test_the_dense_classifier_has_no_loss_for_unlabelled_classes():
    classifier = DenseClassifier(16, CLASSES)
    classifier(torch.randn(2, 64, 16), cells(), None, partly_labelled()[:1] * 2).backward()
    assert (classifier.head.bias.grad[[1, 3]] == 0).all()
    assert (classifier.head.bias.grad[[0, 2, 4]] != 0).all()


def test_a_cell_that_may_show_an_unlabelled_object_is_not_background():
    """Confident cells outside the labelled boxes: no loss where classes are missing, the full loss elsewhere."""
    scores = torch.full((2, 64), -2.0)
    confident = 8 * 7 + 7  # the cell at the bottom right: no box is there
    scores[:, confident] = 3.0
    scores.requires_grad_()
    memory = memory_like(torch.zeros(2, 64, 16), torch.zeros(1, 64, 16), height=8)
    loss = objectness_loss(scores, memory, partly_labelled())
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[0, confident] == 0
    assert gradient[1, confident] > 0
    unsure = 8 * 7
    assert gradient[0, unsure] > 0  # a cell that is not confident is background
    inside = 8 * 2 + 2  # in the middle of a labelled box, where the score must rise
    assert gradient[0, inside] < 0
    torch.testing.assert_close(gradient[0, :56], gradient[1, :56])


def test_the_softmax_of_the_others_adds_up_to_one():
    """As the cross-entropy of torch over the labelled columns alone."""
    logits = torch.randn(1, 1, 1, CLASSES + 1)
    target = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4), "labelled_classes": LABELLED}
    output = DetectionOutput(logits[-1], torch.full((1, 1, 4), 0.5))
    expected = F.cross_entropy(logits[0, 0][:, [0, 2, 4, 5]], torch.tensor([3]))
    torch.testing.assert_close(SetCriterion(CLASSES, "softmax")(output, [target])["loss_ce"], expected)
