"""Likely label errors: planted ones of each kind are found, and correct labels are left alone."""

from pathlib import Path

import numpy as np
import pytest

from conditional_detr.data.index import Category, SplitIndex
from conditional_detr.doctor.label_errors import MISPLACED, MISSING, NOT_FOUND, OTHER_CLASS, label_errors

IMAGES, OBJECTS = 60, 4


@pytest.fixture
def case() -> tuple[list[list[tuple[int, list[float]]]], list[dict]]:
    """True objects (class, box xyxy) on a grid, and detections of all of them: mostly confident, plus weak wrong ones."""
    rng = np.random.default_rng(0)
    objects, detections = [], []
    for i in range(IMAGES):
        own = []
        for k in range(OBJECTS):
            x, y = 100 * (k % 2) + rng.uniform(0, 30), 100 * (k // 2) + rng.uniform(0, 30)
            box = [x, y, x + rng.uniform(30, 60), y + rng.uniform(30, 60)]
            label = int(rng.integers(3))
            own.append((label, box))
            near = (np.array(box) + rng.normal(0, 1.5, 4)).tolist()
            detections.append((i, label, near, rng.uniform(0.7, 1)))
            detections.append((i, int(rng.integers(3)), [x + 60, y + 60, x + 75, y + 75], rng.uniform(0, 0.3)))
        objects.append(own)
    rows = [
        {"image_id": 100 + i, "category_id": label, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "score": float(score)}
        for i, label, b, score in detections
    ]
    return objects, rows


def index_of(objects: list[list[tuple[int, list[float]]]]) -> SplitIndex:
    boxes = [box for own in objects for _, box in own]
    return SplitIndex(
        file=Path("x.json"),
        image_ids=100 + np.arange(len(objects)),
        written_ids=[f"image-{i}" for i in range(len(objects))],
        sizes_hw=np.full((len(objects), 2), 220),
        paths=[f"{i}.png" for i in range(len(objects))],
        first=np.cumsum([0, *map(len, objects)]),
        boxes_xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for own in objects for label, _ in own], dtype=np.int64),
        categories=[Category(k, f"c{k}") for k in range(3)],
        report=[],
        findings=[],
        ground_truth_rows=np.zeros((0, 8)),
    )


def test_correct_labels_are_left_alone(case):
    objects, detections = case
    assert label_errors(index_of(objects), detections) == []


def test_each_kind_of_planted_error_is_found(case):
    objects, detections = case
    removed = objects[3].pop(0)
    label, box = objects[7][1]
    objects[7][1] = ((label + 1) % 3, box)
    moved_label, true_box = objects[11][2]
    width = true_box[2] - true_box[0]
    objects[11][2] = (moved_label, [true_box[0] + 0.6 * width, true_box[1], true_box[2] + 0.6 * width, true_box[3]])
    objects[20].append((2, [180.0, 180.0, 215.0, 215.0]))
    index = index_of(objects)
    errors = label_errors(index, detections)
    found = {error.image: error for error in errors}
    assert len(errors) == 4
    assert {image: error.kind for image, error in found.items()} == {3: MISSING, 7: OTHER_CLASS, 11: MISPLACED, 20: NOT_FOUND}
    assert (found[3].label, found[3].found_label) == (None, removed[0])
    assert (found[7].label, found[7].found_label) == ((label + 1) % 3, label)
    assert found[11].found_box_xyxy == pytest.approx(true_box, abs=8)
    assert (found[20].label, found[20].found_box_xyxy, found[20].score) == (2, None, None)
    assert [error.suspicion for error in errors] == sorted((error.suspicion for error in errors), reverse=True)
    row = found[7].to_dict(index, {"image-7": "here/7.png"})
    assert row["image"] == "here/7.png"
    assert (row["image_id"], row["label"], row["found_label"]) == ("image-7", f"c{(label + 1) % 3}", f"c{label}")


def test_what_is_seldom_found_is_no_error(case):
    """A class that no model ever finds is hard, not wrong."""
    objects, detections = case
    for own in objects[:30]:
        own.append((2, [180.0, 180.0, 215.0, 215.0]))
    kept = [row for row in detections if row["category_id"] != 2]
    assert [error for error in label_errors(index_of(objects), kept) if error.kind == NOT_FOUND] == []


def test_without_detections_or_objects_there_are_none(case):
    objects, detections = case
    assert label_errors(index_of(objects), []) == []
    assert label_errors(index_of([[] for _ in objects]), detections) == []
