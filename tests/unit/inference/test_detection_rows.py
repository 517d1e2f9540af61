"""Records of `postprocess` on their way to people and files."""

from types import SimpleNamespace

import numpy as np
import pytest

from conditional_detr.inference.results import above_threshold, clip_to_image, rows_of, threshold_text, to_detections


@pytest.fixture
def result() -> dict[str, np.ndarray]:
    return {
        "scores": np.array([0.875, 0.375, 0.25], dtype=np.float32),
        "labels": np.array([1, 0, 1]),
        "boxes": np.array([[1, 2, 4, 8], [-3, 0, 5, 5], [0, 0, 90, 90]], dtype=np.float32),
        "queries": np.array([7, 2, 7]),
    }


def model(thresholds: list[float] | None = None) -> SimpleNamespace:
    return SimpleNamespace(thresholds=thresholds, nms_iou=None, class_names=["cat", "dog"], category_ids=[3, 9])


def test_a_row_has_corner_and_size(result):
    rows = rows_of(result)
    assert rows[0] == (1, [1.0, 2.0, 3.0, 6.0], 0.875)
    assert [row.bbox for row in rows[1:]] == [[-3.0, 0.0, 8.0, 5.0], [0.0, 0.0, 90.0, 90.0]]


def test_clipping_moves_boxes_only(result):
    clipped = clip_to_image(np.zeros((50, 60, 3), dtype=np.uint8), result)
    assert clipped["boxes"].tolist() == [[1, 2, 4, 8], [0, 0, 5, 5], [0, 0, 60, 50]]
    assert {key: clipped[key] is result[key] for key in ("scores", "labels", "queries")} == dict.fromkeys(
        ("scores", "labels", "queries"), True
    )


@pytest.mark.parametrize(
    ("thresholds", "conf", "queries"),
    [(None, None, [7, 2]), (None, 0.25, [7, 2, 7]), ([0.5, 0.25], None, [7, 7]), ([0.5, 0.25], 0.5, [7])],
)
def test_what_is_shown_depends_on_the_classs_own_threshold_unless_a_score_is_given(result, thresholds, conf, queries):
    shown = above_threshold(result, model(thresholds), conf)
    assert shown["queries"].tolist() == queries
    assert all(len(value) == len(queries) for value in shown.values())


def test_the_threshold_is_described():
    assert threshold_text(model(), None) == "score threshold 0.3"
    assert threshold_text(model([0.25, 0.4]), None) == "score thresholds 0.25 to 0.40, one per class"
    assert threshold_text(model([0.25, 0.4]), 0.5) == "score threshold 0.5"
    assert threshold_text(model([0.25, 0.251]), None) == "score threshold 0.25"


def test_detections_carry_names_and_ids(result):
    detections = to_detections(result, model())
    assert detections.class_id.tolist() == [1, 0, 1]
    assert detections.data["class_name"].tolist() == ["dog", "cat", "dog"]
    assert detections.data["category_id"].tolist() == [9, 3, 9]
