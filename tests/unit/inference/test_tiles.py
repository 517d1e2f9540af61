"""Tiles: objects of large images are found once, whole, and where they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conditional_detr.errors import ConfigError
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.tiles import Tiling, Window, merged, seen_first, starts, tiling_of, windows


def record(*boxes: list[float], scores: list[float] | None = None, labels: list[int] | None = None) -> dict[str, np.ndarray]:
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(scores or [0.9] * len(boxes), np.float32),
        "labels": np.array(labels or [0] * len(boxes)),
    }


@given(st.integers(33, 900), st.integers(33, 900), st.integers(32, 400), st.floats(0, 0.9))
def test_tiles_cover_the_image_and_overlap_as_asked(height: int, width: int, size: int, overlap: float):
    tiling = Tiling(size, overlap)
    whole, *tiles = windows(height, width, tiling)
    assert whole == (0, 0, width, height)
    assert bool(tiles) == (max(height, width) > size)
    seen = np.zeros((height, width), bool)
    for tile in tiles:
        assert tile.size_hw == (min(size, height), min(size, width))
        tile.of(seen)[:] = True
    assert seen.all() or not tiles
    for length in (height, width):
        steps = np.diff(starts(length, tiling))
        assert (steps <= size * (1 - overlap) + 1).all()  # rounded to pixels


@pytest.mark.parametrize("side", [10.0, 19.0])
def test_an_object_that_fits_into_the_overlap_is_found_once_and_whole(side: float):
    """Wherever it lies: each window reports the part of it that it sees."""
    tiling = Tiling(100, 0.2)
    of = windows(180, 260, tiling)
    for x in np.arange(0, 260 - side, 3.5):
        for y in (0.0, 77.0, 180 - side):
            box = np.array([x, y, x + side, y + side])
            parts = []
            for window in of:
                low, high = np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])
                corner = np.array(window[:2])
                parts.append(record([*(low - corner), *(high - corner)]) if (high - low > 2).all() else record())
            found = merged(parts, of, tiling)["boxes"]
            assert found.shape == (1, 4), (x, y)
            np.testing.assert_allclose(found[0], box, atol=1e-4)


def test_a_large_object_comes_from_the_whole_image():
    tiling = Tiling(100, 0.2)
    of = windows(100, 180, tiling)
    parts = [record([20, 20, 150, 80]), record([20, 20, 100, 80]), record([0, 20, 70, 80])]  # both tiles cut it
    np.testing.assert_allclose(merged(parts, of, tiling)["boxes"], [[20, 20, 150, 80]])


def test_neighbours_of_one_window_do_not_suppress_each_other():
    tiling = Tiling(100, 0.2)
    of = windows(100, 180, tiling)
    close = record([20, 20, 34, 34], [21, 21, 35, 35], scores=[0.9, 0.8])
    found = merged([record([20, 20, 35, 35], scores=[0.3]), close, record()], of, tiling)
    np.testing.assert_allclose(found["scores"], [0.9, 0.8])  # the weaker one of the whole image shows the same object


def test_another_class_is_another_object():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    assert seen_first(boxes, np.array([0, 1, 0]), np.array([0, 1, 2])).tolist() == [True, True, False]


def test_scores_stay_in_order():
    tiling = Tiling(100, 0.2)
    of = windows(100, 180, tiling)
    parts = [record(), record([5, 5, 15, 15], [40, 40, 50, 50], scores=[0.5, 0.2]), record([60, 60, 70, 70], scores=[0.4])]
    assert merged(parts, of, tiling)["scores"].tolist() == pytest.approx([0.5, 0.4, 0.2])


@pytest.mark.parametrize(
    ("tile", "overlap", "message"), [(7, None, "tile must be 0"), (64, 0.95, "overlap must be in"), (64, -0.1, "overlap")]
)
def test_values_out_of_range_are_refused(small_model, tile, overlap, message):
    with pytest.raises(ConfigError, match=message):
        Detector(small_model, tile=tile, overlap=overlap)


def test_the_models_own_tiling_is_the_default(small_model):
    config = small_model.preprocessor.model_copy(update={"tile": 64, "overlap": 0.3})
    assert tiling_of(config) == (64, 0.3)
    assert tiling_of(config, tile=0) == (0, 0.3)
    assert tiling_of(config, overlap=0.0) == (64, 0.0)


def test_a_detector_finds_in_tiles_what_it_finds_in_them_alone(small_model):
    """The whole image is smaller than the tile in one direction, so windows have two sizes."""
    rgb = np.random.default_rng(0).integers(0, 255, (60, 150, 3), dtype=np.uint8)
    tiling = Tiling(96, 0.25)
    of = windows(60, 150, tiling)
    assert of[1:] == [Window(0, 0, 96, 60), Window(54, 0, 150, 60)]
    single = Detector(small_model, device="cpu", tile=0)
    parts = []
    for window in of:
        found = single([window.of(rgb)], conf=0.0)[0]
        parts.append({"boxes": found.xyxy, "scores": found.confidence, "labels": found.class_id})
    expected = merged(parts, of, tiling)
    [found] = Detector(small_model, device="cpu", tile=96, overlap=0.25)([rgb], conf=0.0)
    np.testing.assert_allclose(found.confidence, expected["scores"], atol=1e-5)
    assert len(found) > 0
