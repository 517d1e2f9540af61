"""Which detections are right, against a brute force and against pycocotools' count; thresholds; confusion."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from conditional_detr.data.index import SplitIndex, load_split
from conditional_detr.evaluation.coco import coco_evaluate
from conditional_detr.evaluation.error_analysis import image_errors, most_right, most_wrong
from conditional_detr.evaluation.greedy_matching import Matches, confusion, match, thresholds, thresholds_by_class

IDS = [3, 8, 20]


def folder_with(tmp_path: Path, boxes: dict[int, list[tuple[int, list[float]]]]) -> SplitIndex:
    """A split `valid` whose image i has these (category id, box xywh)."""
    images = [{"id": 10 + i, "file_name": f"{i}.png", "width": 100, "height": 100} for i in boxes]
    rows = [(10 + i, category, box) for i, found in boxes.items() for category, box in found]
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (image, category, box) in enumerate(rows, 1)
    ]
    categories = [{"id": id_, "name": f"class {id_}"} for id_ in IDS]
    (tmp_path / "valid").mkdir()
    for image in images:
        (tmp_path / "valid" / image["file_name"]).write_bytes(b"is not opened")
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "valid" / "_annotations.coco.json").write_text(json.dumps(content))
    return load_split(tmp_path, "valid")


def found(image: int, category: int, box: list[float], score: float) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


@pytest.fixture
def crowded(tmp_path) -> tuple[SplitIndex, list[dict]]:
    """Twelve images with up to eight objects, and detections near them, beside them, twice, and of other classes."""
    rng = np.random.default_rng(0)
    boxes = {
        i: [
            (int(rng.choice(IDS)), [*rng.uniform(0, 60, 2).round(1), *rng.uniform(8, 38, 2).round(1)])
            for _ in range(rng.integers(0, 9))
        ]
        for i in range(12)
    }
    index = folder_with(tmp_path, boxes)
    detections = []
    for i, objects in boxes.items():
        for category, box in objects * 2:
            moved = [float(v) for v in np.array(box) + rng.normal(0, 3, 4)]
            moved[2:] = [max(1.0, side) for side in moved[2:]]
            other = int(rng.choice(IDS)) if rng.random() < 0.2 else category
            detections.append(found(10 + i, other, moved, round(rng.random(), 2)))
    return index, detections


def test_as_many_are_right_at_every_score_as_pycocotools_finds(crowded):
    index, detections = crowded
    matches = match(index, detections)
    coco = COCO(str(index.file))
    evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    theirs = [
        (float(score), bool(gt))
        for image in evaluation.evalImgs
        if image is not None and image["aRng"] == evaluation.params.areaRng[0]
        for score, gt in zip(image["dtScores"], image["dtMatches"][0], strict=True)
    ]
    ours = list(zip(matches.scores.tolist(), (matches.found >= 0).tolist(), strict=True))
    assert sorted(ours) == sorted(theirs)
    assert 20 < sum(right for _, right in ours) < len(ours)


def test_every_object_is_found_once_by_a_detection_of_its_class_that_overlaps_it(crowded):
    index, detections = crowded
    matches = match(index, detections)
    taken = matches.found[matches.found >= 0]
    assert len(set(taken.tolist())) == len(taken)
    for row in np.flatnonzero(matches.found >= 0):
        at = matches.found[row]
        assert index.first[matches.images[row]] <= at < index.first[matches.images[row] + 1]
        assert index.labels[at] == matches.labels[row]
        a, b = matches.boxes_xyxy[row], index.boxes_xyxy[at]
        sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
        union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - np.prod(sides)
        assert np.prod(sides) / union >= 0.5


def test_thresholds_are_counts_of_what_is_kept(crowded):
    matches = match(*crowded)
    curves = thresholds(matches)
    assert curves.scores.tolist() == sorted(set(matches.scores.tolist()))
    for score, precision, recall in zip(curves.scores, curves.precision, curves.recall, strict=True):
        kept = matches.scores >= score
        right = int((matches.found[kept] >= 0).sum())
        assert precision == pytest.approx(right / kept.sum())
        assert recall == pytest.approx(right / matches.objects)
    best = curves.best()
    assert curves.f1[best] == max(curves.f1)
    sure = curves.for_precision(0.6)
    assert curves.precision[sure] >= 0.6
    assert (curves.precision[:sure] < 0.6).all()
    assert curves.for_precision(1.1) is None


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong(tmp_path):
    index = folder_with(tmp_path, {0: [(3, [0, 0, 20, 20]), (3, [40, 40, 50, 50]), (8, [0, 50, 30, 30])]})
    content = json.loads(index.file.read_text())
    content["annotations"][1]["iscrowd"] = 1
    index.file.write_text(json.dumps(content))
    index = load_split(tmp_path, "valid")
    detections = [
        found(10, 3, [0, 0, 20, 20], 0.9),  # an object
        found(10, 3, [45, 45, 10, 10], 0.8),  # in the crowd
        found(10, 3, [30, 40, 15, 15], 0.7),  # a third of it in the crowd
        found(10, 8, [45, 45, 10, 10], 0.6),  # in the crowd of another class
    ]
    matches = match(index, detections)
    assert matches.scores.tolist() == [0.9, 0.7, 0.6]
    assert (matches.found >= 0).tolist() == [True, False, False]


def test_rows_by_image_are_those_of_a_search(crowded):
    index, detections = crowded
    matches = match(index, detections)
    for i, rows in enumerate(matches.by_image(0.4, len(index))):
        assert rows.tolist() == np.flatnonzero((matches.images == i) & (matches.scores >= 0.4)).tolist()


def test_without_detections_no_score_is_advised():
    empty = np.zeros(0)
    matches = Matches(
        empty, empty.astype(int), empty.reshape(0, 4), empty.astype(int), empty.astype(int), empty.astype(bool), 5
    )
    curves = thresholds(matches)
    assert len(curves.scores) == 0
    assert curves.best() is None
    assert curves.for_precision(0.5) is None


def test_confusion_has_true_classes_in_rows_and_the_background_last(tmp_path):
    index = folder_with(
        tmp_path,
        {0: [(3, [0, 0, 20, 20]), (8, [50, 50, 20, 20])], 1: [(20, [0, 0, 30, 30])], 2: []},
    )
    detections = [
        found(10, 3, [0, 0, 20, 20], 0.9),  # right
        found(10, 3, [50, 50, 20, 20], 0.8),  # an 8 taken for a 3
        found(12, 20, [5, 5, 20, 20], 0.7),  # nothing there
        found(11, 20, [0, 0, 30, 30], 0.1),  # below the score
    ]
    counts = confusion(index, match(index, detections), 0.3)
    assert counts.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_the_worst_image_comes_first_and_an_empty_one_left_empty_is_no_mistake(tmp_path):
    index = folder_with(
        tmp_path, {0: [(3, [0, 0, 20, 20])], 1: [(3, [0, 0, 20, 20]), (3, [60, 60, 9, 9])], 2: [], 3: [(8, [0, 0, 9, 9])]}
    )
    detections = [found(10, 3, [0, 0, 20, 20], 0.9), found(11, 3, [0, 0, 20, 20], 0.9), found(13, 8, [50, 50, 9, 9], 0.9)]
    found_ = image_errors(index, match(index, detections), 0.5)
    assert [(v.right, v.wrong, v.missed) for v in found_] == [(1, 0, 0), (1, 0, 1), (0, 0, 0), (0, 1, 1)]
    assert [v.image for v in most_wrong(found_, 5)] == [3, 1]
    assert [v.image for v in most_right(found_, 5)] == [0, 1]
    assert [v.f1 for v in found_] == [1.0, pytest.approx(2 / 3), 1.0, 0.0]


def test_the_curves_behind_the_figures_give_the_figures(crowded):
    index, detections = crowded
    judgement = coco_evaluate(index.file, detections)
    assert judgement.precision.shape == (10, 101, 3, 4)
    assert judgement.category_ids == IDS
    whole = judgement.precision[..., 0]
    assert whole[whole > -1].mean() == pytest.approx(judgement.metrics.AP)
    assert judgement.precision[0, :, :, 0].mean() == pytest.approx(judgement.metrics.AP50)


def test_each_class_with_enough_objects_has_a_threshold_of_its_own(tmp_path):
    """Class 3 is believed from 0.6 on, class 8 from 0.2; class 20 has too few objects and takes what is best for all."""
    boxes = {i: [(3, [0, 0, 20, 20]), (8, [50, 50, 20, 20])] for i in range(10)}
    boxes[0].append((20, [0, 50, 20, 20]))
    index = folder_with(tmp_path, boxes)
    detections = []
    for i in range(10):
        detections += [found(10 + i, 3, [0, 0, 20, 20], 0.6 + i / 100), found(10 + i, 3, [40, 0, 20, 20], 0.5 + i / 100)]
        detections += [found(10 + i, 8, [50, 50, 20, 20], 0.2 + i / 100), found(10 + i, 8, [0, 70, 20, 20], 0.1 + i / 100)]
    detections.append(found(10, 20, [0, 50, 20, 20], 0.05))
    usual, scores = thresholds_by_class(index, match(index, detections))
    assert scores[:2] == [pytest.approx(0.6), pytest.approx(0.2)]
    assert scores[2] == usual
    for label, lowest in enumerate(scores[:2]):  # by brute force: no other score has a higher F1
        matches = match(index, [d for d in detections if d["category_id"] == IDS[label]])
        f1 = {s: f1_from(matches, s, 10) for s in matches.scores.tolist()}
        assert f1[lowest] == max(f1.values())


def f1_from(matches: Matches, lowest: float, objects: int) -> float:
    kept = matches.scores >= lowest
    right = int((matches.found[kept] >= 0).sum())
    return 2 * right / (int(kept.sum()) + objects)


def test_where_nothing_was_found_no_threshold_is_learned(tmp_path):
    index = folder_with(tmp_path, {0: [(3, [0, 0, 20, 20])]})
    assert thresholds_by_class(index, match(index, [found(10, 3, [60, 60, 20, 20], 0.9)])) is None
