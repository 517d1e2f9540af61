"""Arguments of a training run from a file, from --set and from the command line."""

import tomllib
from inspect import signature
from pathlib import Path
from typing import Any

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.config.toml import read_toml
from conditional_detr.errors import ConfigError, did_you_mean
from conditional_detr.training.trainer import train


def training_options(config: Path | None, assignments: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `train` from a TOML file, changed by --set, changed by the options that were typed."""
    known = set(signature(train).parameters) - {"model_overrides", "recipe_overrides", "resume", "quiet"}
    recipe_keys = set(RecipeConfig.model_fields) - known
    model_keys = {f"model.{field}" for field in ModelConfig.model_fields}
    values: dict[str, Any] = {}
    overrides: dict[str, dict[str, Any]] = {"model": {}, "recipe": {}}
    file = read_toml(config) if config is not None else {}
    tables = {key: file.pop(key, {}) for key in ("model_overrides", "training")}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{config}: {key} must be a table, as in [{key}], not {table!r}")
    overrides["model"] |= tables["model_overrides"]
    settings = tables["training"] | file
    for assignment in assignments:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise ConfigError(f"--set wants key=value, not {assignment!r}")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text
        if key in model_keys:
            overrides["model"][key.removeprefix("model.")] = value
        else:
            settings[key.removeprefix("training.")] = value
    for key, value in settings.items():
        if key in known:
            values[key] = value
        elif key in recipe_keys:
            overrides["recipe"][key] = value
        else:
            origin = config if config is not None and key in file else "--set"
            near = f"model.{key}" if f"model.{key}" in model_keys else key
            raise ConfigError(f"{origin}: there is no setting {key!r}. {did_you_mean(near, known | recipe_keys | model_keys)}")
    for key in {"data", "model", "output"} & values.keys():
        if not isinstance(values[key], str):
            raise ConfigError(f"{key} must be a name or a path, not {values[key]!r}")
    return {**values, **given, "model_overrides": overrides["model"], "recipe_overrides": overrides["recipe"]}
