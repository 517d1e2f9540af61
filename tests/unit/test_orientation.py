from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr.data.coco import Category, CocoIndex
from conditional_detr.data.orientation import FEWEST, TURNS, edges, how_upright, looks_of, told_apart
from conditional_detr.training.automatic import turns

SIDE, OBJECT = 128, 40


def disc(canvas: np.ndarray, x: int, y: int) -> None:
    rows, columns = np.mgrid[:OBJECT, :OBJECT] - (OBJECT - 1) / 2
    canvas[y : y + OBJECT, x : x + OBJECT][np.hypot(rows, columns) < OBJECT / 2] = 230


def arrow(canvas: np.ndarray, x: int, y: int) -> None:
    """It points upwards."""
    rows, columns = np.mgrid[:OBJECT, :OBJECT]
    canvas[y : y + OBJECT, x : x + OBJECT][abs(columns - OBJECT / 2) < rows / 2] = 230


def pole(canvas: np.ndarray, x: int, y: int) -> None:
    canvas[y : y + OBJECT, x : x + OBJECT // 3] = 230


def made(folder: Path, draw, sky: bool = False, number: int = 30) -> CocoIndex:
    """Pictures of noise with three objects each, the upper half smooth where there is a sky."""
    rng = np.random.default_rng(5)
    paths, boxes = [], []
    for i in range(number):
        canvas = rng.integers(0, 120, (SIDE, SIDE, 3)).astype(np.uint8)
        if sky:
            canvas[: SIDE // 2] = 90
        for _ in range(3):
            x, y = (int(v) for v in rng.integers(4, SIDE - OBJECT - 4, 2))
            draw(canvas, x, y)
            boxes.append([x, y, x + (OBJECT // 3 if draw is pole else OBJECT), y + OBJECT])
        Image.fromarray(canvas).save(folder / f"{i}.png")
        paths.append(str(folder / f"{i}.png"))
    return CocoIndex(
        file=folder / "a.json", image_ids=np.arange(number), sizes_hw=np.full((number, 2), SIDE), paths=paths,
        first=3 * np.arange(number + 1), boxes_xyxy=np.array(boxes, np.float32), labels=np.zeros(3 * number, np.int64),
        categories=[Category(0, "thing")], report=[], findings=[], truth=np.zeros((0, 8)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("draw", "sky", "allowed"),
    [
        (disc, False, ["vflip", "transpose"]),  # as through a microscope
        (disc, True, []),  # a scene that has an above and a below
        (arrow, False, []),  # objects that have
        (pole, False, ["vflip"]),  # that stand, whichever end is up
    ],
)
def test_pictures_are_turned_where_nothing_tells_how_they_are_held(tmp_path, draw, sky, allowed):
    choices = turns(made(tmp_path, draw, sky))
    assert [choice.setting for choice in choices] == allowed
    assert all(choice.value == 0.5 and "told apart" in choice.reason for choice in choices)


def test_few_pictures_say_nothing(tmp_path):
    data = made(tmp_path, disc, number=FEWEST - 1)
    assert {how_upright(looks_of(data), turn) for turn in TURNS} == {None}
    assert turns(data) == []


def test_pictures_that_cannot_be_read_are_passed_over(tmp_path):
    data = made(tmp_path, disc)
    Path(data.paths[3]).write_bytes(b"no picture")
    assert len(looks_of(data).pictures) == 29


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_edges_of_a_turned_picture_are_the_turned_edges(turn):
    rgb = torch.randint(256, (3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(edges(turn(rgb), 48, 6), turn(edges(rgb, 48, 6)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("turn", TURNS)
def test_pairs_are_told_apart_by_a_rule_that_has_not_seen_them(turn):
    looks = torch.randn(12, 3, 3) + 0.7 * torch.tensor([[0.0, 1, 2], [0, 0, 1], [0, 0, 0]])
    differences = (looks - TURNS[turn](looks)).flatten(1).double()
    strength = float(differences.square().sum(1).mean())
    right = 0
    for i in range(len(differences)):  # ridge regression by its normal equations, from all the others
        others = torch.cat([differences[:i], differences[i + 1 :]])
        rule = torch.linalg.solve(others.T @ others + strength * torch.eye(9, dtype=torch.double), others.sum(0))
        right += bool(differences[i] @ rule > 0)
    assert told_apart(looks, TURNS[turn]) == pytest.approx(right / len(differences))


def test_what_is_its_own_mirror_image_is_told_apart_by_chance_at_most():
    looks = torch.randn(40, 3, 3)
    assert told_apart(looks + looks.flip(-2), TURNS["vflip"]) <= 0.5
