from pathlib import Path

import numpy as np
import pytest
import torch

from conditional_detr.config.presets import PRESETS
from conditional_detr.config.recipes import RECIPES
from conditional_detr.config.run import RunConfig
from conditional_detr.data.index import Category, SplitIndex
from conditional_detr.training.setup.architecture import beginning
from conditional_detr.training.setup.augmentations import flips
from conditional_detr.training.setup.auto_config import RULES, batch, groups, queries, resolve_auto
from conditional_detr.training.setup.choices import Choice, Context, Sources
from conditional_detr.training.setup.image_size import growth, image_size, tile, wanted_size
from conditional_detr.training.setup.memory_estimate import activation_bytes
from conditional_detr.training.setup.step_speed import StepSpeed, measured_speed
from conditional_detr.weights.recognise import shipped
from conditional_detr.weights.save import save_model
from models import small

CELLS = {"neck": "space_to_depth", "pixel_aligned_positions": True}
BOXES = {"box_refinement": True, "cross_attention": "box_conditional", "reference_points": "encoder_boxes"}


def index(boxes: list[list[list[float]]], sizes_hw: list[tuple[int, int]], names: tuple[str, ...] = ("cell",)) -> SplitIndex:
    """A split of images with these boxes each."""
    flat = [box for of_image in boxes for box in of_image]
    return SplitIndex(
        file=Path("a.json"),
        image_ids=np.arange(len(boxes)),
        written_ids=list(range(len(boxes))),
        sizes_hw=np.array(sizes_hw),
        paths=[str(i) for i in range(len(boxes))],
        first=np.cumsum([0, *map(len, boxes)]),
        boxes_xyxy=np.array(flat, dtype=np.float32),
        labels=np.zeros(len(flat), dtype=np.int64),
        categories=[Category(i, name) for i, name in enumerate(names)],
        report=[],
        findings=[],
        ground_truth_rows=np.zeros((0, 8)),
    )


def squares(side: float, number: int) -> list[list[float]]:
    return [[0, 0, side, side]] * number


@pytest.mark.parametrize(("most", "expected"), [(1, 20), (10, 20), (11, 30), (28, 60), (900, 1000), (1500, 1500)])
def test_queries_leave_room_over_the_fullest_image(most: int, expected: int):
    assert queries(index([squares(9, 1), squares(9, most)], [(100, 100)] * 2)).value == expected


def test_one_crowded_image_does_not_double_the_queries_of_all():
    data = index([squares(9, 20)] * 99 + [squares(9, 100)], [(100, 100)] * 100)
    assert queries(data).value == 120  # not 200
    data = index([squares(9, 20)] * 9 + [squares(9, 100)], [(100, 100)] * 10)
    assert queries(data).value == 200  # every tenth image is no exception


@pytest.mark.parametrize(("queries", "expected"), [(40, None), (130, None), (150, 2), (230, 1), (900, 1)])
def test_large_groups_of_queries_are_fewer(queries: int, expected: int | None):
    choice = groups(config(model_overrides={"num_queries": queries}))
    assert (choice and choice.value) == expected


@pytest.mark.parametrize(
    ("minutes", "seconds", "expected"),
    [
        (0, 1.0, 480),  # without a limit the objects decide
        (20, 0.05, 480),
        (20, 0.5, 480),
        (20, 1.0, 352),
        (20, 50.0, 288),  # never less than 0.6 times as large: then there would be nothing to see
    ],
)
def test_the_input_is_no_larger_than_the_time_allows(minutes: float, seconds: float, expected: int):
    data = index([squares(24, 10)] * 50, [(480, 640)] * 50)
    asked = config(training=RECIPES["fast"].model_copy(update={"minutes": minutes}))
    choice = image_size(Context(asked, Sources(data, asked.model, lambda *_: StepSpeed(0.0, seconds / 480**2))))
    assert choice.value == expected
    assert ("small objects ask for 480 px, but 20 minutes leave" in choice.reason) == (expected < 480)


def test_wide_images_take_more_of_the_time():
    sizes = []
    for width in (480, 960):
        data = index([squares(24, 10)] * 50, [(480, width)] * 50)
        asked = config(training=RECIPES["fast"].model_copy(update={"minutes": 20}))
        sizes.append(image_size(Context(asked, Sources(data, asked.model, lambda *_: StepSpeed(0.0, 0.7 / 480**2)))).value)
    assert sizes == [480, 352]


@pytest.mark.parametrize(
    ("side", "image", "expected"),
    [
        (20, (480, 640), None),  # 1.7 cells at 640 px
        (2, (100, 100), None),  # no tile is smaller than such images
        (8, (600, 900), 160),  # twice as large at 320 px
        (20, (1500, 2000), 288),  # more tiles would take too long
        (30, (3000, 4000), 544),
    ],
)
def test_small_objects_in_large_images_are_seen_in_tiles(side: float, image: tuple[int, int], expected: int | None):
    data = index([squares(side, 10)] * 5, [image] * 5)
    asked = config()
    choice = tile(Context(asked, Sources(data, asked.model)))
    assert (choice and choice.value) == expected


def test_measuring_a_step_leaves_no_trace():
    before = torch.get_rng_state()
    speed = measured_speed(config(), PRESETS["conditional-detr-tiny"].model, (64, 96), 3)
    assert speed.at(96.0**2) > 0
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("side", "shorter", "expected"),
    [
        (200, 480, 320),  # large objects: the usual size
        (30, 480, 384),  # small ones: enlarged until they are one and a half cells of 16 px wide
        (4, 480, 640),  # tiny ones: as far as it is worth
        (40, 128, 128),  # small images are not enlarged for large objects
        (10, 128, 256),  # for small ones at most to twice their size
    ],
)
def test_the_input_is_as_large_as_small_objects_ask_for(side: float, shorter: int, expected: int):
    data = index([squares(side, 10)], [(shorter, 2 * shorter)])
    assert wanted_size(data, stride=16)[0] == expected


def test_a_tenth_of_the_objects_may_be_smaller():
    data = index([squares(2, 5) + squares(100, 95)], [(320, 320)])
    assert wanted_size(data, stride=16)[0] == 320


def test_a_single_box_decides_nothing():
    data = index([squares(3, 1) + squares(100, 95)], [(320, 320)], names=("dust", "cell"))
    data.labels[1:] = 1
    assert wanted_size(data, stride=16)[0] == 320


def test_a_class_counts_as_much_as_another_however_few_objects_it_has():
    data = index([squares(20, 5) + squares(100, 95)], [(320, 320)], names=("platelet", "cell"))
    data.labels[5:] = 1
    assert wanted_size(data, stride=16)[0] == 384


@pytest.mark.parametrize(
    "names", [list("0123456789"), ["a", "b"], ["10c", "2h", "Ks"], ["left_shoe", "shoe"], ["turn left", "x-ray"]]
)
def test_what_mirroring_would_change_is_not_mirrored(names: list[str]):
    choice = flips(names)
    assert choice is not None
    assert choice.value == 0
    assert "mirroring" in choice.reason


@pytest.mark.parametrize(
    "names", [["RBC", "WBC"], ["cat", "dog"], ["cleft", "bright"], ["ace", "king", "ten"], ["person", "car", "A"]]
)
def test_other_names_say_nothing_against_it(names: list[str]):
    assert flips(names) is None


def config(**values) -> RunConfig:
    fixed = {"data": "d", "model": "conditional-detr-tiny", "output": "o", "recipe": "fast", "training": RECIPES["fast"]}
    return RunConfig(**fixed | values)


def test_choices_are_made_for_a_new_model_and_said():
    data = index([squares(30, 14)], [(480, 480)], names=("0", "1"))
    chosen, lines = resolve_auto(config(), set(), data)
    assert (chosen.model_overrides, chosen.imgsz, chosen.training.hflip) == (
        {**BOXES, **CELLS, "num_queries": 30},
        384,
        0.0,
    )
    assert chosen.training.init_from == "conditional-detr-tiny-objects"
    assert len(lines) == 9  # the start is said where weights are taken
    assert any(line.startswith("model.num_queries = 30: a training image has up to 14 objects") for line in lines)


def test_what_somebody_asked_for_stays():
    data = index([squares(30, 14)], [(480, 480)], names=("0", "1"))
    asked = config(
        imgsz=96,
        model_overrides={
            "num_queries": 7,
            "reference_points": "learned",
            "box_refinement": False,
            "neck": "last",
            "pixel_aligned_positions": False,
        },
    )
    assert resolve_auto(
        asked,
        {
            "imgsz",
            "model.num_queries",
            "hflip",
            "model.box_refinement",
            "model.neck",
            "model.pixel_aligned_positions",
            "progressive_resize_from",
        },
        data,
    ) == (
        asked,
        [],
    )


def test_the_papers_recipe_leaves_nothing_to_the_data():
    data = index([squares(30, 14)], [(480, 480)], names=("0", "1"))
    paper = config(recipe="paper", training=RECIPES["paper"])
    assert resolve_auto(paper, set(), data) == (paper, [])


@pytest.mark.parametrize("exact", [True, False])
def test_a_trained_model_keeps_its_queries_and_its_size(tmp_path, exact):
    save_model(small(num_classes=2, pixel_aligned_positions=exact), tmp_path / "cells")
    data = index([squares(120, 14)], [(480, 480)], names=("0", "1"))
    chosen, lines = resolve_auto(config(model=str(tmp_path / "cells"), imgsz=320), set(), data)
    assert (chosen.model_overrides, chosen.imgsz, chosen.training.hflip) == ({}, 320, 0.0)
    assert [line.split(" = ")[0] for line in lines] == ["hflip", "progressive_resize_from"]
    assert chosen.training.progressive_resize_from == (0.5 if exact else 1)  # without, cells lie elsewhere at every size


@pytest.mark.parametrize(("imgsz", "asked", "expected"), [(320, 0.5, 0.5), (200, 0.5, 0.8), (128, 0.5, 1), (640, 0.75, 0.75)])
def test_images_begin_no_smaller_than_160_px(imgsz: int, asked: float, expected: float):
    training = RECIPES["fast"].model_copy(update={"progressive_resize_from": asked})
    model = PRESETS["conditional-detr-tiny"].model
    chosen = config(imgsz=imgsz, training=training)
    assert growth(chosen, model.model_copy(update={"pixel_aligned_positions": True})).value == pytest.approx(expected)
    assert growth(chosen, model).value == 1  # cells lie elsewhere at every size


def test_a_batch_is_halved_until_it_fits_into_half_of_the_memory():
    each = activation_bytes(PRESETS["conditional-detr-tiny"].model, 320, 533)
    wide = config(imgsz=320, training=RECIPES["fast"].model_copy(update={"batch": 8}))
    assert batch(wide, free=2**40) is None
    assert batch(wide, free=16 * each + 1) is None
    for free, expected in ((15 * each, 4), (5 * each, 2), (each, 1)):
        choice = batch(wide, free)
        assert choice is not None
        assert (choice.setting, choice.value) == ("batch", expected)


def test_what_an_image_keeps_grows_with_its_area():
    model = PRESETS["conditional-detr-tiny"].model
    small, large = (activation_bytes(model, side, side) for side in (128, 256))
    assert 3 * small < large < 6 * small  # the decoder's queries stay, attention among cells grows faster
    assert 15e6 < small < 40e6


@pytest.mark.parametrize("overrides", [{}, {"spatial_query": "lambda", "box_offset": False}, {"reference_points": "origin"}])
def test_only_the_papers_form_of_reference_points_is_exchanged(overrides: dict):
    data = index([squares(30, 14)], [(480, 480)])
    chosen, _ = resolve_auto(config(model_overrides=overrides), set(), data)
    expected = overrides.get("reference_points", None if overrides else "encoder_boxes")
    assert chosen.model_overrides.get("reference_points") == expected
    detr, _ = resolve_auto(config(model="detr-tiny"), set(), data)
    assert "reference_points" not in detr.model_overrides


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("conditional-detr-tiny", {}, "space_to_depth"),
        ("detr-tiny", {}, "space_to_depth"),
        ("conditional-detr-r18", {"strides": [16]}, "space_to_depth"),
        ("conditional-detr-r18", {}, None),  # the paper's
        ("conditional-detr-dc5-r50", {}, None),
        ("conditional-detr-tiny", {"strides": [8, 16]}, None),  # several levels
    ],
)
def test_a_stage_that_is_not_the_papers_gets_the_one_before_it(name: str, overrides: dict, expected: str | None):
    chosen, _ = resolve_auto(config(model=name, model_overrides=overrides), set(), index([squares(30, 14)], [(480, 480)]))
    assert chosen.model_overrides.get("neck") == expected
    assert chosen.model_overrides["pixel_aligned_positions"]


def test_a_run_that_goes_on_keeps_what_was_decided_when_it_began():
    data = index([squares(30, 14)], [(480, 480)], names=("0", "1"))
    began = config(imgsz=512, model_overrides={"num_queries": 30, "reference_points": "encoder", **CELLS})
    began = began.model_copy(
        update={
            "training": began.training.model_copy(
                update={"batch": 1, "hflip": 0.0, "init_from": "x", "vflip": 0.3, "transpose": 0.2}
            )
        }
    )
    assert resolve_auto(config(), set(), data, began) == (began, [])
    asked = config(imgsz=96, model_overrides={"num_queries": 7})
    kept, _ = resolve_auto(asked, {"imgsz", "model.num_queries"}, data, began)
    assert (kept.imgsz, kept.model_overrides) == (96, {"num_queries": 7, "reference_points": "encoder", **CELLS})
    paper = config(recipe="paper", training=RECIPES["paper"])
    assert resolve_auto(paper, set(), data, began) == (paper, [])


def test_a_rule_that_is_new_is_kept_by_a_run_that_goes_on(monkeypatch):
    """Nothing but the table knows which settings are decided."""
    data = index([squares(30, 14)], [(480, 480)])
    monkeypatch.setitem(RULES, "weight_decay", lambda context: Choice("weight_decay", 0.5, "a test says so"))
    monkeypatch.setitem(RULES, "model.dropout", lambda context: Choice("model.dropout", 0.25, "a test says so"))
    monkeypatch.setitem(RULES, "max_bad", lambda context: Choice("max_bad", 0.5, "a test says so"))
    began, lines = resolve_auto(config(), set(), data)
    assert "weight_decay = 0.5: a test says so" in lines
    for setting in ("weight_decay", "model.dropout", "max_bad"):
        monkeypatch.setitem(RULES, setting, lambda context: pytest.fail("it was decided when the run began"))
    assert resolve_auto(config(), set(), data, began) == (began, [])


def test_a_loss_that_the_model_rules_out_falls_away_with_a_reason():
    data = index([squares(30, 14)], [(480, 480)])
    chosen, lines = resolve_auto(config(model="detr-tiny"), set(), data)
    assert chosen.training.class_loss == "model"
    assert lines[-1] == "class_loss = model: ia_bce needs focal classification, the model's is softmax"
    asked, lines = resolve_auto(config(model="detr-tiny"), {"class_loss"}, data)
    assert asked.training.class_loss == "ia_bce"  # which is refused when the criterion is built
    focal, lines = resolve_auto(config(), set(), data)
    assert focal.training.class_loss == "ia_bce"
    assert not any("class_loss" in line for line in lines)


def test_who_begins_with_a_model_gets_its_parts(tmp_path):
    save_model(small("conditional-detr-tiny", reference_points="learned", neck="space_to_depth"), tmp_path / "trained")
    training = RECIPES["fast"].model_copy(update={"init_from": str(tmp_path / "trained")})
    chosen, lines = resolve_auto(config(training=training), {"init_from"}, index([squares(30, 14)], [(480, 480)]))
    assert chosen.model_overrides == {"reference_points": "learned", "neck": "space_to_depth", "num_queries": 30}
    assert f"model.neck = space_to_depth: as in {tmp_path / 'trained'} (initial weights)" in lines


@pytest.mark.parametrize(("names", "expected"), [([*"0123456789"], "digits"), (["0", "1"], "objects"), (["cell"], "objects")])
def test_a_model_with_the_parts_of_one_that_comes_with_the_package_begins_with_its_weights(names: list[str], expected: str):
    assert shipped() == [f"conditional-detr-tiny-{name}" for name in ("digits", "objects", "shapes")]
    alike = config(model_overrides={**BOXES, **CELLS, "num_queries": 7})
    choice = beginning(alike, names)
    assert choice is not None
    assert (choice.setting, choice.value) == ("init_from", f"conditional-detr-tiny-{expected}")
    without_boxes = {**alike.model_overrides, "box_refinement": False, "cross_attention": "conditional"}
    older = beginning(config(model_overrides=without_boxes | {"reference_points": "encoder"}), ["cell"])
    assert older is not None
    assert older.value == "conditional-detr-tiny-shapes"
    assert beginning(config(model_overrides={**alike.model_overrides, "lambda_q": "scalar"}), names) is None
    assert beginning(alike.model_copy(update={"pretrained_backbone": False}), names) is None
    assert beginning(config(model="conditional-detr-r18"), names) is None


def test_who_has_the_classes_of_a_bundled_model_gets_its_parts_and_its_weights():
    digits = index([squares(30, 14)], [(480, 480)], names=tuple("0123456789"))
    chosen, lines = resolve_auto(config(), set(), digits)
    assert chosen.training.init_from == "conditional-detr-tiny-digits"
    assert chosen.model_overrides == {"reference_points": "encoder", **CELLS, "num_queries": 30}
    assert "model.reference_points = encoder: as in conditional-detr-tiny-digits (initial weights)" in lines
    larger, _ = resolve_auto(config(model="conditional-detr-r18"), set(), digits)  # another architecture: nothing to fit
    assert larger.model_overrides["box_refinement"]
    fresh, _ = resolve_auto(config(pretrained_backbone=False), set(), digits)
    assert fresh.model_overrides["box_refinement"]
