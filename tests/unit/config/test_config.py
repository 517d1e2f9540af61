import re
from typing import get_args

import pytest
import torch

from conditional_detr.config.messages import build, updated
from conditional_detr.config.parts import IDLE, USES, check_parts, unused_fields, with_overrides
from conditional_detr.config.presets import PRESETS, preset
from conditional_detr.config.recipes import RECIPES, RecipeConfig
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.config.toml import read_toml, to_toml
from conditional_detr.errors import ConfigError
from conditional_detr.factory.create import create_model


def test_an_unknown_model_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="'conditional-detr-r5' is not a model name. Did you mean conditional-detr-r50?"):
        preset("conditional-detr-r5")


def test_an_unknown_field_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="create_model: there is no setting 'num_querys'. Did you mean num_queries?"):
        build(ModelConfig, {"num_querys": 5}, "create_model")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"num_queries": 0}, "here: num_queries must be greater than or equal to 1, not 0"),
        ({"dropout": float("nan")}, "here: dropout must be"),
        ({"lambda_q": "blok"}, "here: lambda_q must be 'diagonal', 'identity', 'scalar', 'block' or 'full', not 'blok'"),
        ({"hidden_dim": 100}, "here: hidden_dim must be divisible by num_heads and by 4, not 100 with 8 heads"),
        ({"box_offset": None}, "here: box_offset must be true or false, not None"),
        ({"encoder_layers": 2.5}, "here: encoder_layers must be a whole number, not 2.5"),
        ({"encoder_layers": "many"}, "here: encoder_layers must be a whole number"),
        ({"strides": 16}, "here: strides must be a list, as in [16] or [0.5, 1.0], not 16"),
        ({"strides": []}, "here: strides must be a list of 1 or more entries, not []"),
        ({"strides": [16, 8]}, "here: strides must double from level to level, the finest first"),
        (
            {"strides": [32], "dilation": True},
            "here: dilation = true halves the last stage's stride: strides must be [16], not [32]",
        ),
    ],
)
def test_a_wrong_value_is_said_in_our_words(values: dict, text: str):
    with pytest.raises(ConfigError) as caught:
        build(ModelConfig, values, "here")
    message = str(caught.value)
    assert text in message
    assert "pydantic" not in message
    assert "validation error" not in message


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        (ModelConfig, {"strides": [7]}, "here: strides.0 must be 8, 16, 32 or 64, not 7"),
        (RecipeConfig, {"scales": [1, 1, 1]}, "here: scales must be a list of 2 or fewer entries, not [1, 1, 1]"),
        (RecipeConfig, {"scales": [1]}, "here: scales must be a list of 2 or more entries, not [1]"),
    ],
)
def test_a_wrong_list_is_one_sentence(kind: type, values: dict, text: str):
    with pytest.raises(ConfigError) as caught:
        build(kind, values, "here")
    assert str(caught.value) == text


def test_an_unknown_key_inside_a_table_is_answered_with_the_nearest_of_that_table():
    values = {"data": "d", "model": "m", "output": "o", "training": {"epoch": 3}}
    with pytest.raises(ConfigError, match=r"there is no setting 'training.epoch'. Did you mean epochs?"):
        build(RunConfig, values, "config.toml")


def test_a_run_config_survives_toml(tmp_path):
    config = RunConfig(data="d", model="m", output="o", training=RECIPES["fast"], model_overrides={"num_queries": 7})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert build(RunConfig, read_toml(file), str(file)) == config


def test_unreadable_toml_names_the_file(tmp_path):
    (tmp_path / "a.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"a.toml cannot be read as TOML"):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match=r"b.toml cannot be opened: No such file"):
        read_toml(tmp_path / "b.toml")


def test_the_paper_recipe_is_the_papers():
    recipe = RECIPES["paper"]
    assert (recipe.epochs, recipe.batch, recipe.lr, recipe.lr_backbone) == (50, 16, 1e-4, 1e-5)
    assert (recipe.weight_decay, recipe.clip_max_norm, recipe.warmup_steps, recipe.schedule) == (1e-4, 0.1, 0, "step")


def test_the_papers_models_have_the_papers_parts():
    for name, chosen in PRESETS.items():
        if name.endswith("-tiny"):
            continue
        model = chosen.model
        assert (model.hidden_dim, model.num_heads, model.encoder_layers, model.decoder_layers) == (256, 8, 6, 6)
        queries = 100 if name.startswith(("detr", "up-detr")) else 300
        width = 1024 if name.startswith("deformable") else 2048
        assert (model.feedforward_dim, model.num_queries, model.dropout, chosen.imgsz) == (width, queries, 0.1, 800)
        assert model.norm == ("pre" if name.startswith("up-detr") else "post")
        assert model.spatial_init == "xavier"
        assert model.strides == ((8, 16, 32) if "-ms-" in name else (16,) if "dc5" in name else (32,))


CONFLICTS = [
    ({"cross_attention": "additive", "spatial_query": "point"}, "spatial_query = 'point' and cross_attention = 'additive'"),
    ({"cross_attention": "additive", "lambda_q": "diagonal"}, "lambda_q = 'diagonal' and cross_attention = 'additive'"),
    ({"spatial_query": "content", "lambda_q": "block"}, "lambda_q = 'block' and spatial_query = 'content'"),
    ({"spatial_query": "lambda", "spatial_init": "local"}, "spatial_init = 'local' and spatial_query = 'lambda'"),
    (
        {"spatial_query": "lambda", "box_offset": "false", "reference_points": "learned"},
        "reference_points = 'learned' and spatial_query = 'lambda' with box_offset = false",
    ),
]


@pytest.mark.parametrize(("overrides", "text"), CONFLICTS)
def test_two_fields_that_exclude_each_other_are_both_named(overrides: dict, text: str):
    with pytest.raises(ConfigError) as caught:
        with_overrides(preset("conditional-detr-tiny").model, overrides, "here")
    assert f"here: {text} cannot be combined" in str(caught.value)


@pytest.mark.parametrize("overrides", [overrides for overrides, _ in CONFLICTS if "diagonal" not in overrides.values()])
def test_a_configuration_that_contradicts_itself_is_not_built(overrides: dict):
    with pytest.raises(ConfigError, match="cannot be combined"):
        check_parts(build(ModelConfig, overrides, "here"))


def test_what_a_choice_makes_meaningless_falls_away_with_it():
    tiny = preset("conditional-detr-tiny").model
    assert tiny.spatial_init == "local"
    detr = with_overrides(tiny, {"cross_attention": "additive", "box_offset": False}, "here")
    assert (detr.spatial_init, detr.reference_points) == ("xavier", "origin")
    check_parts(detr)
    assert with_overrides(tiny, {"cross_attention": "additive"}, "here").reference_points == "predicted"  # for the offset


def test_the_longer_sides_limit_follows_the_shorter_side():
    assert PreprocessorConfig().longest == 1333
    assert updated(PreprocessorConfig(), {"imgsz": 320}, "x").longest == 533
    assert PreprocessorConfig(max_size=900).longest == 900


@pytest.mark.parametrize(("scales", "text"), [((0, 1), "scales.0 must be"), ((1.2, 0.8), "scales must be a range from small")])
def test_scales_are_a_range_of_sizes(scales: tuple[float, float], text: str):
    with pytest.raises(ConfigError, match=text):
        updated(RECIPES["fast"], {"scales": scales}, "here")


def idle_by_plain_rules(model: ModelConfig) -> dict[str, str]:
    """Which fields mean nothing beside the others, and what makes it so, written out."""
    idle = {}
    if model.box_refinement:
        idle["box_offset"] = "box_refinement = true"
    no_offset = not model.box_refinement and not model.box_offset
    additive = "" if model.cross_attention == "conditional" else f"cross_attention = {model.cross_attention!r}"
    if additive:
        idle["spatial_query"] = additive
    if additive or model.spatial_query not in ("conditional", "intermediate"):
        idle["lambda_q"] = additive or f"spatial_query = {model.spatial_query!r}"
    if additive or model.spatial_query in ("lambda", "content"):  # nothing looks from the reference points
        if no_offset and model.cross_attention != "deformable":
            idle["reference_points"] = (additive or f"spatial_query = {model.spatial_query!r}") + " with box_offset = false"
        idle["spatial_init"] = additive or f"spatial_query = {model.spatial_query!r}"
    if model.cross_attention != "deformable" and model.encoder_attention != "deformable":
        attention = f"encoder_attention = {model.encoder_attention!r} with cross_attention = {model.cross_attention!r}"
        idle["sampling_points"] = attention
    if no_offset:
        idle["size_logit"] = "box_offset = false"
    return idle


CHOICES = {
    field: get_args(ModelConfig.model_fields[field].annotation)
    for field in ("encoder_attention", "cross_attention", "spatial_query")
}


@pytest.mark.parametrize("encoder_attention", CHOICES["encoder_attention"])
@pytest.mark.parametrize("cross_attention", CHOICES["cross_attention"])
@pytest.mark.parametrize("spatial_query", CHOICES["spatial_query"])
@pytest.mark.parametrize(("box_offset", "box_refinement"), [(True, False), (False, False), (True, True)])
def test_what_is_idle_follows_from_what_each_part_uses(
    encoder_attention: str, cross_attention: str, spatial_query: str, box_offset: bool, box_refinement: bool
):
    attention = {"encoder_attention": encoder_attention, "cross_attention": cross_attention}
    boxes = {"box_offset": box_offset, "box_refinement": box_refinement}
    model = ModelConfig(**attention, spatial_query=spatial_query, **boxes)
    expected = idle_by_plain_rules(model)
    assert unused_fields(model) == expected
    others = {"reference_points": "learned", "lambda_q": "scalar", "spatial_init": "local", "classification": "softmax"}
    assert unused_fields(model.model_copy(update=others)) == expected  # these make nothing idle themselves


def test_every_choice_of_a_part_says_what_it_uses():
    for field, values in USES.items():
        kind = ModelConfig.model_fields[field].annotation
        assert set(values) == ({True, False} if kind is bool else set(get_args(kind))), field
        assert set().union(*values.values()) <= set(IDLE)
    for field, value in IDLE.items():
        build(ModelConfig, {field: value}, "here")


def test_a_field_that_is_idle_builds_nothing_and_one_that_is_not_is_heard():
    sizes = {"num_queries": 3, "hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 2, "feedforward_dim": 32}

    def parameters(**overrides: object) -> dict[str, torch.Size]:
        model = create_model("conditional-detr-tiny", 2, pretrained_backbone=False, **sizes, **overrides)
        return {key: p.shape for key, p in model.named_parameters() if not key.startswith("backbone")}

    learned = parameters(spatial_query="lambda", reference_points="learned")  # for the boxes' offset
    assert learned["reference_points.points"] == (3, 2)
    nothing = parameters(spatial_query="content", box_offset=False)
    assert not [key for key in nothing if "reference_points" in key or "lambda_q" in key]


def test_the_strides_of_the_levels_double_and_dilation_has_one_level_of_16():
    tiny = preset("conditional-detr-tiny").model
    assert (tiny.strides, tiny.finest_stride) == ((16,), 16)
    for strides in ([32, 16], [16, 16], [8, 32], [16, 64], [64]):
        with pytest.raises(ConfigError, match=f"the finest first, and 64 needs 32 before it, not {re.escape(str(strides))}"):
            build(ModelConfig, {"strides": strides}, "here")
    with pytest.raises(ConfigError, match=r"strides must be \[16\], not \[32\]"):
        build(ModelConfig, {"dilation": True}, "here")
    r50 = preset("conditional-detr-r50").model
    dilated = with_overrides(r50, {"dilation": True}, "here")
    assert dilated.strides == (16,)
    assert with_overrides(dilated, {"dilation": False}, "here").strides == (32,)
    assert with_overrides(r50, {"dilation": False}, "here") == r50
    with pytest.raises(ConfigError, match=r"strides must be \[16\], not \[8, 16, 32\]"):
        with_overrides(preset("conditional-detr-ms-r50").model, {"dilation": True}, "here")
