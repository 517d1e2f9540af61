"""All settings of a run."""

from pathlib import Path
from typing import Any, Literal

from conditional_detr.config.messages import build, updated
from conditional_detr.config.options import TrainOptions
from conditional_detr.config.presets import PRESETS, recipe_of
from conditional_detr.config.recipes import RECIPES, RecipeConfig, RecipeOptions
from conditional_detr.config.run import RunConfig
from conditional_detr.device.threads import usable_cores
from conditional_detr.errors import ConfigError, did_you_mean
from conditional_detr.training.execution.distributed import launched
from conditional_detr.weights.discovery import find_checkpoint, read_checkpoint


def requested(values: dict[str, Any]) -> TrainOptions:
    """Options as somebody gave them, checked; None = not given.

    Raises
    ------
    ConfigError : names the option, what must hold and what came; an unknown option is answered with the nearest
    """
    recipe = values.get("recipe")
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}. {did_you_mean(recipe, RECIPES)}")
    given = {key: str(value) if isinstance(value, Path) else value for key, value in values.items() if value is not None}
    return build(TrainOptions, given, origin="train")


def asked_for(options: TrainOptions) -> set[str]:
    """Names of the settings that somebody chose, as --set knows them."""
    return options.model_fields_set | set(options.recipe_overrides) | {f"model.{field}" for field in options.model_overrides}


def resolve(options: TrainOptions) -> RunConfig:
    """All settings of a run: the model's, changed by the recipe's, changed by what was given.

    A model name says for which size and recipe it is made, a checkpoint for which size; its recipe is that of the model
    name with its backbone.
    """
    given = options.model_dump(exclude_unset=True)
    name = str(Path(options.model).resolve() if Path(options.model).exists() else options.model)
    if not {"recipe", "imgsz"} <= given.keys():  # a run that goes on has both written down
        imgsz, recipe = made_for(name)
        given = {"imgsz": imgsz, "recipe": recipe, **given}
    recipe_values = options.recipe_overrides | {key: given[key] for key in RecipeOptions.model_fields.keys() & given.keys()}
    settings = {key: given[key] for key in RunConfig.model_fields.keys() & given.keys()}
    settings |= {"data": str(Path(options.data).resolve()), "model": name, "workers": given.get("workers", _usual_workers())}
    return build(RunConfig, {**settings, "training": _recipe(RECIPES[given["recipe"]], recipe_values)}, origin="train")


def made_for(source: str) -> tuple[int, Literal["paper", "fast"]]:
    """The size in px and the recipe that a source is made for, without building it."""
    path = find_checkpoint(source)
    if path is None:
        return PRESETS[source].imgsz, PRESETS[source].recipe
    checkpoint = read_checkpoint(path)
    return checkpoint.preprocessor.imgsz, recipe_of(checkpoint.config)


def cores_of_process() -> int:
    """Processor cores for this process: those of a machine share them."""
    return max(1, usable_cores() // (launched("local_world") or 1))


def _usual_workers() -> int:
    """Half of the cores but two, which a step can use to the full."""
    return max(0, cores_of_process() - 2) // 2


def _recipe(base: RecipeConfig, values: dict[str, Any]) -> RecipeConfig:
    """A recipe with some values changed; the backbone's learning rate moves with the model's."""
    lr = values.get("lr")
    if isinstance(lr, int | float) and lr > 0:
        values = {"lr_backbone": base.lr_backbone * lr / base.lr, **values}
    return updated(base, values, origin="train")
