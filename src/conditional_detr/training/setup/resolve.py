"""All settings of a run."""

from typing import Any, Literal

from conditional_detr.config.messages import build, updated
from conditional_detr.config.presets import PRESETS, recipe_of
from conditional_detr.config.recipes import RECIPES
from conditional_detr.config.run import RunConfig
from conditional_detr.errors import ConfigError, did_you_mean
from conditional_detr.weights.discovery import find_checkpoint, read_checkpoint


def resolve(name: str, recipe: str | None, recipe_values: dict[str, Any], values: dict[str, Any]) -> RunConfig:
    """All settings of a run: the model's, changed by the recipe's, changed by what was given.

    A model name says for which size and recipe it is made, a checkpoint for which size; its recipe is that of the model
    name with its backbone.
    """
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}. {did_you_mean(recipe, RECIPES)}")
    if recipe is None or "imgsz" not in values:  # a run that goes on has both written down
        imgsz, usual = made_for(name)
        values, recipe = {"imgsz": imgsz, **values}, recipe or usual
    base = RECIPES[recipe]
    lr = recipe_values.get("lr")
    if isinstance(lr, int | float):
        recipe_values = {"lr_backbone": base.lr_backbone * lr / base.lr if lr > 0 else base.lr_backbone, **recipe_values}
    training = updated(base, recipe_values, origin="train")
    return build(RunConfig, {**values, "recipe": recipe, "training": training}, origin="train")


def made_for(source: str) -> tuple[int, Literal["paper", "fast"]]:
    """The size in px and the recipe that a source is made for, without building it."""
    path = find_checkpoint(source)
    if path is None:
        return PRESETS[source].imgsz, PRESETS[source].recipe
    checkpoint = read_checkpoint(path)
    return checkpoint.preprocessor.imgsz, recipe_of(checkpoint.config)
