"""Where attention lies beside a box: the arithmetic of the benchmark."""

from pathlib import Path

import numpy as np
import pytest

from conditional_detr.explaining.maps import Explanation


@pytest.fixture
def places(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import attention_places

    return attention_places


def explained(maps: np.ndarray, box: list[float]) -> Explanation:
    same = {"spatial": maps, "content": maps, "combined": maps, "box": np.array(box), "reference_point": None}
    return Explanation(**same, cell_size=(16.0, 16.0), score=0.9, class_id=0, class_name="a", query=0)


def test_distances_are_to_the_outline_in_box_sizes(places):
    points = np.array([[0, 0], [1, 0], [0, -1], [0.5, 0.2], [2, 0], [3, 3]])
    assert places.to_nearest_side(points).tolist() == pytest.approx([0.5, 0, 0, 0.25, 0.5, np.sqrt(2)])


@pytest.mark.parametrize(("size_hw", "box"), [((96, 96), [20, 30, 60, 70]), ((90, 70), [40, 50, 120, 110])])
def test_an_even_map_has_what_chance_has(places, size_hw, box):
    maps = np.zeros((1, 1, 6, 6))
    rows, columns = (int(np.ceil(side / 16 - 0.5)) for side in size_hw)
    maps[:, :, :rows, :columns] = 1 / (rows * columns)
    found = places.place(explained(maps, box), size_hw)
    assert found.inside[0, 0] == pytest.approx(found.chance_inside)
    assert 0 < found.chance_inside < 1


def test_a_peak_on_the_left_side_is_found_there(places):
    maps = np.zeros((1, 1, 6, 6))
    maps[0, 0, 2, 1] = 1  # its centre: x 24, y 40
    found = places.place(explained(maps, [24, 20, 64, 60]), (96, 96))
    assert found.peaks[0, 0].tolist() == pytest.approx([-1, 0])
    assert found.distances[0, 0] == pytest.approx(0)
    assert found.inside[0, 0] == pytest.approx(0.5)
