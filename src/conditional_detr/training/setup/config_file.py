"""Options of a training run from a file, from --set and from the command line."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conditional_detr.config.options import PYTHON_ONLY, TrainOptions
from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.config.toml import read_toml
from conditional_detr.errors import ConfigError, did_you_mean

OPTIONS = set(TrainOptions.model_fields) - PYTHON_ONLY - {"resume"}
RECIPE_KEYS = set(RecipeConfig.model_fields) - OPTIONS
MODEL_KEYS = {f"model.{field}" for field in ModelConfig.model_fields}


def training_options(config: Path | None, assignments: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `train` from a TOML file, changed by --set, changed by the options that were typed.

    Raises
    ------
    ConfigError : a file that cannot be read, or a setting that there is not
    """
    written = {} if config is None else _settings_of(config)
    typed = dict(map(_assigned, assignments))
    for origin, settings in ((config, written), ("--set", typed)):
        _check_known(settings, str(origin))
    settings = written | typed
    for key in {"data", "model", "output"} & settings.keys():
        if not isinstance(settings[key], str):
            raise ConfigError(f"{key} must be a name or a path, not {settings[key]!r}")
    return {
        **{key: settings[key] for key in OPTIONS & settings.keys()},
        **given,
        "model_overrides": {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")},
        "recipe_overrides": {key: settings[key] for key in settings if key in RECIPE_KEYS},
    }


def _settings_of(config: Path) -> dict[str, Any]:
    """The settings of a TOML file as --set knows them."""
    file = read_toml(config)
    tables = {key: file.pop(key, {}) for key in ("model_overrides", "training")}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{config}: {key} must be a table, as in [{key}], not {table!r}")
    model = {f"model.{key}": value for key, value in tables["model_overrides"].items()}
    return {**model, **tables["training"], **file}


def _assigned(assignment: str) -> tuple[str, Any]:
    """A setting and its value from key=value; a value that is not TOML is a text."""
    key, sign, text = assignment.partition("=")
    if not sign:
        raise ConfigError(f"--set wants key=value, not {assignment!r}")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    return key.removeprefix("training."), value


def _check_known(settings: Iterable[str], origin: str) -> None:
    known = OPTIONS | RECIPE_KEYS | MODEL_KEYS
    for key in settings:
        if key not in known:
            near = f"model.{key}" if f"model.{key}" in MODEL_KEYS else key
            raise ConfigError(f"{origin}: there is no setting {key!r}. {did_you_mean(near, known)}")
