"""Resolve all settings of a run from the given options, the model and the recipe."""

from pathlib import Path
from typing import Any, Literal

from conditional_detr.config.messages import build, updated
from conditional_detr.config.options import TrainOptions
from conditional_detr.config.parts import with_overrides
from conditional_detr.config.presets import PRESETS, imgsz_of, recipe_for, recipe_of
from conditional_detr.config.recipes import RECIPES, RecipeConfig, RecipeOptions
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.device.threads import usable_cores
from conditional_detr.errors import ConfigError, SourceError, UnavailableError, did_you_mean
from conditional_detr.training.execution.distributed import launched
from conditional_detr.weights.discovery import read_checkpoint
from conditional_detr.weights.recognise import find_checkpoint


def requested(values: dict[str, Any], origin: str = "train") -> TrainOptions:
    """Validate the options given by the user. None means that an option was not given. `origin` starts every error message.

    Raises
    ------
    ConfigError : an option is invalid or unknown; the message names it with the expected and the actual value, or suggests
        the most similar known option
    """
    recipe = values.get("recipe")
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}. {did_you_mean(recipe, RECIPES)}")
    given = {key: str(value) if isinstance(value, Path) else value for key, value in values.items() if value is not None}
    return build(TrainOptions, given, origin)


def user_settings(options: TrainOptions) -> set[str]:
    """Names of the settings that the user set, as in --set."""
    return options.model_fields_set | set(options.recipe_overrides) | {f"model.{field}" for field in options.model_overrides}


def resolve(options: TrainOptions, origin: str = "train") -> RunConfig:
    """Resolve all settings of a run. Given options override the defaults of the recipe and of the model.

    `origin` starts every error message.

    A model name defines the default image size and recipe. A checkpoint defines the default image size; its default recipe
    is that of the model name with the same backbone.
    """
    given = options.model_dump(exclude_unset=True)
    name = str(Path(options.model).resolve() if Path(options.model).exists() else options.model)
    try:
        imgsz, recipe, model = made_for(name, options.model_overrides, origin)
    except (SourceError, UnavailableError):
        if not (options.resume and {"recipe", "imgsz"} <= given.keys()):
            raise
        base = RECIPES[given["recipe"]]  # the model that a run started from may be gone; its config.toml contains everything
    else:
        given = {"imgsz": imgsz, "recipe": recipe, **given}
        base = recipe_for(model, given["recipe"])
    recipe_values = options.recipe_overrides | {key: given[key] for key in RecipeOptions.model_fields.keys() & given.keys()}
    settings = {key: given[key] for key in RunConfig.model_fields.keys() & given.keys()}
    settings |= {"data": str(Path(options.data).resolve()), "model": name, "workers": given.get("workers", _default_workers())}
    training = _recipe(base, recipe_values, origin)
    return build(RunConfig, {**settings, "training": training}, origin)


def made_for(source: str, overrides: dict[str, Any], origin: str) -> tuple[int, Literal["paper", "fast"], ModelConfig]:
    """Default image size (shorter side, px), recipe and configuration of a model source. The model is not built.

    Parameters
    ----------
    source : a model name, or the path of a trained model
    overrides : fields of the configuration that differ from those of the model name
    origin : starts every error message
    """
    path = find_checkpoint(source)
    if path is None:
        chosen = PRESETS[source]
        return chosen.imgsz, chosen.recipe, with_overrides(chosen.model, overrides, origin)
    checkpoint = read_checkpoint(path)
    imgsz = imgsz_of(checkpoint.config) if checkpoint.config.patches else checkpoint.preprocessor.imgsz
    return imgsz, recipe_of(checkpoint.config), checkpoint.config


def cores_of_process() -> int:
    """Number of processor cores for this process. The processes of a run on one machine share its cores equally."""
    return max(1, usable_cores() // (launched("local_world") or 1))


def _default_workers() -> int:
    """Default number of loader processes: half of the cores beyond the first two, which are left to the training step."""
    return max(0, cores_of_process() - 2) // 2


def _recipe(base: RecipeConfig, values: dict[str, Any], origin: str) -> RecipeConfig:
    """Copy a recipe with some values changed. A new `lr` scales `lr_backbone` in proportion, unless that is given too."""
    lr = values.get("lr")
    if isinstance(lr, int | float) and lr > 0:
        values = {"lr_backbone": base.lr_backbone * lr / base.lr, **values}
    return updated(base, values, origin)
