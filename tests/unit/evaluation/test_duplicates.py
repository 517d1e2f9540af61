"""Second detections of an object: counted, and suppressed only where that helps."""

import numpy as np
import pytest
from test_greedy_matching import folder_with, found

from conditional_detr.evaluation.duplicates import find_duplicates, suppressed
from conditional_detr.inference.results import not_suppressed, selected, threshold_text

BOX, NEAR, FAR = [10.0, 10.0, 40.0, 40.0], [12.0, 11.0, 40.0, 40.0], [60.0, 50.0, 20.0, 20.0]


def test_duplicates_are_second_detections_of_one_object(tmp_path):
    index = folder_with(tmp_path, {1: [(3, BOX)], 2: [(3, BOX), (8, FAR)]})
    rows = [
        found(11, 3, BOX, 0.9),
        found(11, 3, NEAR, 0.8),  # a duplicate
        found(11, 3, NEAR, 0.2),  # below the threshold
        found(11, 8, NEAR, 0.8),  # of another class: wrong, but no duplicate
        found(12, 3, BOX, 0.7),
        found(12, 8, [0.0, 80.0, 9.0, 9.0], 0.9),  # no object
    ]
    result = find_duplicates(index, rows, [0.5] * 3)
    assert (result.count, result.objects) == (1, 3)
    assert result.per_100_objects == pytest.approx(100 / 3)
    assert result.f1 == pytest.approx(2 * 2 / (5 + 3))
    assert result.nms_iou == 0.8  # the highest that still removes it; the boxes have an IoU of 0.86
    assert result.f1_with_nms == pytest.approx(2 * 2 / (4 + 3))


def test_suppression_that_costs_objects_is_not_chosen(tmp_path):
    index = folder_with(tmp_path, {1: [(3, BOX), (3, NEAR)]})  # two objects that overlap
    result = find_duplicates(index, [found(11, 3, BOX, 0.9), found(11, 3, NEAR, 0.8)], [0.5] * 3)
    assert (result.count, result.f1, result.nms_iou) == (0, 1.0, None)
    empty = find_duplicates(index, [], [0.5] * 3)
    assert (empty.count, empty.f1, empty.nms_iou) == (0, 0.0, None)


def test_suppression_is_that_of_torchvision():
    import torch
    from torchvision.ops import batched_nms

    rng = np.random.default_rng(0)
    for iou in (0.3, 0.5, 0.7):
        corners = rng.uniform(0, 60, (80, 2)).astype(np.float32)
        boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (80, 2)).astype(np.float32)], 1)
        labels, scores = rng.integers(0, 3, 80), rng.permutation(80).astype(np.float32)
        theirs = batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), iou)
        ours = np.flatnonzero(not_suppressed(boxes, labels, scores, iou))
        assert sorted(theirs.tolist()) == ours.tolist()
    assert not_suppressed(np.zeros((0, 4)), np.zeros(0), np.zeros(0), 0.5).tolist() == []


def test_images_and_classes_are_suppressed_apart():
    rows = [found(11, 3, BOX, 0.9), found(12, 3, BOX, 0.8), found(11, 8, BOX, 0.7), found(11, 3, BOX, 0.6)]
    assert suppressed(rows, 0.5) == [rows[0], rows[2], rows[1]]


def test_prediction_uses_what_the_model_has_learned(small_model):
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [0, 0, 10, 9.5]], dtype=np.float32)
    result = {"boxes": boxes, "labels": np.array([0, 0, 1, 0]), "scores": np.array([0.9, 0.8, 0.7, 0.1], dtype=np.float32)}
    assert selected(result, small_model, None)["scores"].tolist() == pytest.approx([0.9, 0.8, 0.7])
    small_model.nms_iou = 0.5
    assert selected(result, small_model, None)["scores"].tolist() == pytest.approx([0.9, 0.7])
    assert selected(result, small_model, 0.0)["scores"].tolist() == pytest.approx([0.9, 0.7])
    assert (
        threshold_text(small_model, 0.4)
        == "score threshold 0.4; of two boxes of one class with an IoU above 0.5, only the better one is kept"
    )
