import inspect

import pytest

from conditional_detr.config.options import command_line_options, python_signature
from conditional_detr.config.recipes import RECIPES
from conditional_detr.errors import ConfigError
from conditional_detr.training.setup.config_file import training_options
from conditional_detr.training.setup.resolve import requested, resolve, user_settings


def test_defaults_are_those_of_the_fields_or_say_what_decides():
    options = {option.name: option for option in command_line_options()}
    assert (options["seed"].default, options["seed"].default_text) == (42, "42")
    assert options["batch"].default is None
    assert options["batch"].default_text == "from the recipe: paper 16 (deformable-detr-ss-* 32), fast 2"
    assert options["imgsz"].default_text == "recipe fast: chosen from the data; paper: the input size of the model"
    parameters = python_signature().parameters
    assert parameters["data"].default is inspect.Parameter.empty
    assert (parameters["epochs"].annotation, parameters["epochs"].default) == (int | None, None)


def test_only_what_was_given_counts_as_asked_for(tmp_path):
    options = requested({
        "data": tmp_path, "epochs": 3, "lr": None, "recipe_overrides": {"crop": 0.0}, "model_overrides": {"num_queries": 7},
    })  # fmt: skip
    assert user_settings(options) >= {"data", "epochs", "crop", "model.num_queries"}
    assert not user_settings(options) & {"lr", "seed", "imgsz", "recipe"}
    config = resolve(options)
    assert (config.data, config.imgsz, config.recipe, config.training.epochs) == (str(tmp_path), 320, "fast", 3)
    assert config.training.lr == RECIPES["fast"].lr


def test_the_backbones_learning_rate_moves_in_proportion():
    fast = RECIPES["fast"]
    recipe = resolve(requested({"data": "d", "lr": 2 * fast.lr})).training
    assert recipe.lr_backbone == pytest.approx(2 * fast.lr_backbone)
    fixed = resolve(requested({"data": "d", "lr": 2 * fast.lr, "recipe_overrides": {"lr_backbone": 0.0}})).training
    assert fixed.lr_backbone == 0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"epoch": 3}, "train: there is no setting 'epoch'. Did you mean epochs?"),
        ({"epochs": "many"}, "train: epochs must be a whole number, not 'many'"),
        ({"recipe": "papr"}, "there is no recipe 'papr'. Did you mean paper? Known: fast, paper."),
        ({"recipe": 3}, "train: recipe must be 'paper' or 'fast', not 3"),
        ({"recipe": [1]}, "train: recipe must be 'paper' or 'fast', not [1]"),
        ({"amp": "fp8"}, "train: amp must be 'auto', 'bf16' or 'off', not 'fp8'"),
    ],
)
def test_a_wrong_option_is_answered_in_our_words(values: dict, text: str):
    with pytest.raises(ConfigError) as caught:
        requested({"data": "d", **values})
    assert str(caught.value) == text


def test_what_is_typed_comes_before_set_and_set_before_the_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("batch = 4\nseed = 1\n[training]\nepochs = 5\ncrop = 0.1\n[model_overrides]\nnum_queries = 9\n")
    values = training_options(file, ["seed=2", "training.crop=0.2", "model.dropout=0", "lr=1"], {"lr": 3.0})
    assert values == {
        "batch": 4, "seed": 2, "epochs": 5, "lr": 3.0, "recipe_overrides": {"crop": 0.2},
        "model_overrides": {"num_queries": 9, "dropout": 0},
    }  # fmt: skip
    file.write_text("[model_overrides]\nnum_querys = 9\n")
    with pytest.raises(ConfigError, match=r"c.toml: there is no setting 'model.num_querys'. Did you mean model.num_queries\?"):
        training_options(file, [], {})
