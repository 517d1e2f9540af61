from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr.config.recipes import RECIPES
from conditional_detr.config.run import RunConfig
from conditional_detr.data.index import Category, SplitIndex
from conditional_detr.training.setup.augmentations import turn
from conditional_detr.training.setup.auto_config import resolve_auto
from conditional_detr.training.setup.choices import Choice
from conditional_detr.training.setup.invariance import (
    MIN_SAMPLES,
    TURNS,
    edge_density_grid,
    edge_profiles,
    leave_one_out_accuracy,
    orientation_score,
    some_images,
    unseen_scores,
)

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


def made(folder: Path, draw, sky: bool = False, number: int = 30) -> SplitIndex:
    """Images of noise with three objects each, the upper half smooth where there is a sky."""
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
    return SplitIndex(
        file=folder / "a.json", image_ids=np.arange(number),
        written_ids=list(range(number)), sizes_hw=np.full((number, 2), SIDE), paths=paths,
        first=3 * np.arange(number + 1), boxes_xyxy=np.array(boxes, np.float32), labels=np.zeros(3 * number, np.int64),
        categories=[Category(0, "thing")], report=[], findings=[], ground_truth_rows=np.zeros((0, 8)),
    )  # fmt: skip


def turns(data: SplitIndex) -> list[Choice]:
    """The choices for all turns that can be decided."""
    profiles = edge_profiles(data)
    return [choice for setting in TURNS if (choice := turn(profiles, setting))]


@pytest.mark.parametrize(
    ("draw", "sky", "allowed"),
    [
        (disc, False, ["vflip", "transpose"]),  # as through a microscope
        (disc, True, []),  # a scene that has an above and a below
        (arrow, False, []),  # objects that have
        (pole, False, ["vflip"]),  # that stand, whichever end is up
    ],
)
def test_transformations_are_allowed_if_images_have_no_upright_orientation(tmp_path, draw, sky, allowed):
    choices = turns(made(tmp_path, draw, sky))
    assert [choice.setting for choice in choices] == ["vflip", "transpose"]
    assert [choice.setting for choice in choices if choice.value == 0.5] == allowed
    refused = [choice for choice in choices if choice.setting not in allowed]
    assert all(choice.value == 0 and "not below the limit" in choice.reason for choice in refused)


def test_one_class_with_an_upright_orientation_is_enough(tmp_path):
    data = made(tmp_path, disc, number=60)
    for i in range(60):  # an arrow over the first disc of each image
        canvas = np.array(Image.open(data.paths[i]))
        x, y = (int(v) for v in data.boxes_xyxy[3 * i, :2])
        canvas[y : y + OBJECT, x : x + OBJECT] = 0
        arrow(canvas, x, y)
        Image.fromarray(canvas).save(data.paths[i])
    data.labels[::3] = 1
    assert [choice.value for choice in turns(data)] == [0, 0]


def test_the_data_decide_for_classes_that_may_be_mirrored(tmp_path):
    data = made(tmp_path, disc)
    config = RunConfig(data="d", model="conditional-detr-tiny", output="o", recipe="fast", training=RECIPES["fast"])
    chosen = resolve_auto(config, set(), data)[0].training
    assert (chosen.vflip, chosen.transpose) == (0.5, 0.5)
    asked = resolve_auto(config, {"vflip", "transpose"}, data)[0].training
    assert (asked.vflip, asked.transpose) == (0, 0)
    data.categories[0] = Category(0, "6")
    digits, lines = resolve_auto(config, set(), data)
    assert (digits.training.hflip, digits.training.vflip, digits.training.transpose) == (0, 0, 0)
    assert not any("look alike" in line for line in lines)


def test_few_images_give_no_result(tmp_path):
    data = made(tmp_path, disc, number=MIN_SAMPLES - 1)
    assert {orientation_score(edge_profiles(data), setting) for setting in TURNS} == {None}
    assert turns(data) == []


def test_few_objects_give_no_result(tmp_path):
    data = made(tmp_path, disc)
    data.first[:] = 0  # whose images have none
    data.first[-1] = len(data.labels)
    assert {orientation_score(edge_profiles(data), setting) for setting in TURNS} == {None}


def test_images_that_training_cannot_use_are_ignored(tmp_path):
    data = made(tmp_path, disc)
    Path(data.paths[3]).write_bytes(b"no image")
    Image.open(data.paths[4]).resize((SIDE, 2 * SIDE)).save(data.paths[4])  # not the size that the annotations are for
    assert len(edge_profiles(data).images) == 28


def test_fewer_large_images_are_sampled(tmp_path):
    data = made(tmp_path, disc, number=40)
    data.sizes_hw[:] = 5000
    assert len(some_images(data, np.random.default_rng(0))) == MIN_SAMPLES


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_edges_of_a_turned_image_are_the_turned_edges(turn):
    rgb = torch.randint(256, (3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(edge_density_grid(turn(rgb), 48, 6), turn(edge_density_grid(rgb, 48, 6)), atol=1e-4, rtol=1e-4)


def test_each_pair_is_classified_without_being_in_the_training_data():
    differences = torch.randn(24, 9, dtype=torch.double) + 0.2
    strength = differences.square().sum(1).mean() * torch.eye(9, dtype=torch.double)
    for i, score in enumerate(unseen_scores(differences)):
        others = torch.cat([differences[:i], differences[i + 1 :]])
        rule = torch.linalg.solve(others.T @ others + strength, others.sum(0))  # by the normal equations
        torch.testing.assert_close(score, differences[i] @ rule)


def test_symmetric_profiles_have_chance_accuracy():
    profiles = torch.randn(40, 3, 3)
    assert leave_one_out_accuracy(profiles + profiles.flip(-2), TURNS["vflip"]) == 0.5


def test_black_frames_do_not_affect_the_other_images():
    upright = torch.randn(30, 3, 3) + torch.tensor([[2.0], [0], [-2]])
    assert leave_one_out_accuracy(torch.cat([upright, torch.zeros(20, 3, 3)]), TURNS["vflip"]) > 0.9
