"""Box formats are detected, and correct boxes are never converted."""

import numpy as np
import pytest

from conditional_detr.data.box_format import LAYOUTS, UPRIGHT, box_of, detect_box_format, to_xywh

SIZE = np.array([320.0, 200.0])


def boxes(count: int, seed: int = 0, largest: float = 0.4) -> np.ndarray:
    """Boxes x, y, w, h px inside their images, anywhere."""
    rng = np.random.default_rng(seed)
    extent = rng.uniform(0.05, largest, (count, 2)) * SIZE
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * (SIZE - extent), extent], axis=1)


def sizes(count: int) -> np.ndarray:
    return np.tile(SIZE, (count, 1))


def written_as(how: str, true: np.ndarray) -> np.ndarray:
    unit, _, layout = how.rpartition(" ")
    x, y, w, h = (true / np.tile(SIZE, 2) if unit else true).T
    columns = {
        "xywh": (x, y, w, h), "xyxy": (x, y, x + w, y + h), "cxcywh": (x + w / 2, y + h / 2, w, h),
        "yxyx": (y, x, y + h, x + w), "yxhw": (y, x, h, w),
    }  # fmt: skip
    return np.stack(columns[layout], axis=1)


@pytest.mark.parametrize("how", [*LAYOUTS, *(f"normalised {layout}" for layout in UPRIGHT)])
def test_every_format_is_detected_and_converted(how: str):
    true = boxes(60)
    found = detect_box_format(written_as(how, true), sizes(60))
    assert found.layout == how
    assert (found.message is None) == (how == "xywh")
    np.testing.assert_allclose(to_xywh(written_as(how, true), how, sizes(60)), true, atol=1e-9)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [3, 7, 12, 40])
@pytest.mark.parametrize("largest", [0.1, 0.9])
def test_coco_boxes_are_not_converted(seed: int, count: int, largest: float):
    """Also if one in ten extends beyond the image or has no area."""
    true = boxes(count, seed, largest)
    assert detect_box_format(true, sizes(count)).message is None
    true[: count // 10] += [300, 0, 0, 0]
    true[count // 10 : count // 8, 2] = 0
    assert detect_box_format(true, sizes(count)).message is None


def test_centre_format_is_distinguished_from_corner_format():
    """Both formats fit for objects near the centre. With the right one, their mean position is the centre."""
    true = boxes(40, largest=0.2) * 0.3 + np.array([0.4, 0.4, 0, 0]) * np.tile(SIZE, 2)
    found = detect_box_format(written_as("normalised cxcywh", true), sizes(40))
    assert found.layout == "normalised cxcywh"
    assert "normalised xywh fits too: check the boxes in the copy" in found.message


def test_one_other_box_does_not_prevent_detecting_normalised_boxes():
    written = written_as("normalised xywh", boxes(12))
    written[3] = [0.9, 0.9, 1.002, 0.1]
    assert detect_box_format(written, sizes(12)).layout == "normalised xywh"
    written[4:6] = [10, 10, 50, 50]
    assert detect_box_format(written, sizes(12)).layout == "xywh"


def test_a_quarter_of_boxes_outside_is_enough_if_all_fit_as_corners():
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 0.3, (30, 2)) * SIZE
    end = start + rng.uniform(0.2, 0.65, (30, 2)) * SIZE
    outside = (start + end > SIZE).any(1).mean()
    assert 0.2 < outside < 0.4
    assert detect_box_format(np.concatenate([start, end], axis=1), sizes(30)).layout == "xyxy"


def test_an_unknown_format_is_reported_and_not_converted():
    shifted = boxes(40) + np.array([150, 90, 40, 40])
    found = detect_box_format(shifted, sizes(40))
    assert found.layout == "xywh"
    assert "do not lie inside their images" in found.message


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"bbox": [1, 2, 3, 4]}, [1, 2, 3, 4]),
        ({"bbox": ["1", 2.5, 3, 4]}, [1, 2.5, 3, 4]),
        ({"segmentation": [[10, 20, 30, 20, 30, 60], [5, 40, 8, 41, 6, 44]]}, [5, 20, 25, 40]),
        ({"bbox": [], "segmentation": [[10, 20, 30, 20, 30, 60]]}, [10, 20, 20, 40]),
        ({"bbox": "1234"}, None),
        ({"bbox": [True, 1, 2, 3]}, None),
        ({"bbox": [1, 2, 3]}, None),
        ({"bbox": [1, 2, 3, float("inf")]}, None),
        ({"bbox": [1, 2, 3, float("nan")]}, None),
        ({"bbox": [1, 2, 3, 1e300]}, None),
        ({"segmentation": {"counts": "x"}}, None),
        ({"segmentation": [[1, 2, 3, 4]]}, None),
        ({}, None),
    ],
)
def test_the_box_of_an_annotation(row: dict, expected: list[float] | None):
    assert box_of(row) == expected


def test_another_split_is_evidence():
    """A split with few boxes, or few outside, is read in the format of another split if that fits better."""
    corners = np.tile([20.0, 20.0, 70.0, 70.0], (30, 1))
    assert detect_box_format(corners, sizes(30), "xyxy").layout == "xywh"
    corners[0] = [200, 100, 300, 180]
    assert detect_box_format(corners, sizes(30)).layout == "xywh"
    assert detect_box_format(corners, sizes(30), "xyxy").layout == "xyxy"
    assert detect_box_format(corners[:2], sizes(2), "xyxy").layout == "xyxy"
    assert detect_box_format(boxes(30), sizes(30), "xyxy").layout == "xywh"
