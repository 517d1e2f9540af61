"""Combine the training options from a TOML file, from --set and from the command line."""

import tomllib
from pathlib import Path
from typing import Any

from conditional_detr.config.messages import check_values
from conditional_detr.config.options import PYTHON_ONLY, TrainOptions
from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.config.toml import read_toml
from conditional_detr.errors import ConfigError, did_you_mean

PATHS = {"data", "model", "output"}
OPTIONS = set(TrainOptions.model_fields) - PYTHON_ONLY - {"resume"}
RECIPE_KEYS = set(RecipeConfig.model_fields) - OPTIONS
MODEL_KEYS = {f"model.{field}" for field in ModelConfig.model_fields}


def training_options(config: Path | None, assignments: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Combine the arguments of `train`. Command line options override --set, and --set overrides the TOML file.

    Parameters
    ----------
    config : TOML file, or None
    assignments : values of --set, as "key=value"
    given : options that were given on the command line

    Raises
    ------
    ConfigError : the file cannot be read, or a setting is unknown, or a value is invalid
    """
    written = {} if config is None else _settings_of(config)
    typed = dict(map(_assigned, assignments))
    for origin, settings in ((config, written), ("--set", typed)):
        _check(settings, str(origin))
    settings = written | typed
    for key in PATHS & settings.keys():
        if not isinstance(settings[key], str):
            raise ConfigError(f"{key} must be a name or a path, not {settings[key]!r}")
    return {
        **{key: settings[key] for key in OPTIONS & settings.keys()},
        **given,
        "model_overrides": {key.removeprefix("model."): value for key, value in settings.items() if key.startswith("model.")},
        "recipe_overrides": {key: settings[key] for key in settings if key in RECIPE_KEYS},
    }


def _settings_of(config: Path) -> dict[str, Any]:
    """Read the settings of a TOML file, with the same names as in --set."""
    file = read_toml(config)
    tables = {key: file.pop(key, {}) for key in ("model_overrides", "training")}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{config}: {key} must be a table, as in [{key}], not {table!r}")
    model = {f"model.{key}": value for key, value in tables["model_overrides"].items()}
    return {**model, **tables["training"], **file}


def _assigned(assignment: str) -> tuple[str, Any]:
    """Parse key=value into a setting and its value. A value that is not valid TOML is taken as a string."""
    key, sign, text = assignment.partition("=")
    if not sign:
        raise ConfigError(f"--set expects key=value, not {assignment!r}")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    return key.removeprefix("training."), value


def _check(settings: dict[str, Any], origin: str) -> None:
    """Check names and values while it is known where they come from."""
    known = OPTIONS | RECIPE_KEYS | MODEL_KEYS
    for key in settings:
        if key not in known:
            near = f"model.{key}" if f"model.{key}" in MODEL_KEYS else key
            raise ConfigError(f"{origin}: there is no setting {key!r}. {did_you_mean(near, known)}")
    for kind, prefix in ((TrainOptions, ""), (RecipeConfig, ""), (ModelConfig, "model.")):
        fields = {f"{prefix}{field}": field for field in kind.model_fields}
        values = {fields[key]: settings[key] for key in settings if key in fields and fields[key] not in PATHS}
        check_values(kind, values, f"{origin}, model" if prefix else origin)
