"""The `config.json` of a checkpoint or an export: what the model is, without its weights. Needs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from conditional_detr.config.messages import build
from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.errors import CheckpointError, ConfigError
from conditional_detr.storage.json import read_json_object
from conditional_detr.weights.recognise import DESCRIPTION

if TYPE_CHECKING:
    from conditional_detr.factory.build import DetectionModel

FORMAT_VERSION = 2


def describe(model: "DetectionModel") -> dict[str, Any]:
    """Return the content of `config.json` for a model."""
    learned = {"thresholds": model.thresholds, "nms_iou": model.nms_iou}
    return {
        "format_version": FORMAT_VERSION,
        "model": model.config.model_dump(mode="json"),
        "preprocessor": model.preprocessor.model_dump(mode="json"),
        "class_names": model.class_names,
        "category_ids": model.category_ids,
    } | {key: value for key, value in learned.items() if value is not None}


def read_description(folder: Path) -> dict[str, Any]:
    """Read the `config.json` of a checkpoint folder, and check its version and required keys."""
    file = folder / DESCRIPTION
    content = read_json_object(file, CheckpointError)
    if "format_version" not in content:
        raise CheckpointError(f"{file} does not describe a checkpoint of this library: it has no format_version")
    version = content["format_version"]
    if not isinstance(version, int) or version != FORMAT_VERSION:
        older = isinstance(version, int) and 1 <= version < FORMAT_VERSION
        advice = "it was written before the first release: train the model again" if older else "upgrade conditional-detr"
        raise CheckpointError(f"{file} has format_version {str(version)[:40]}; this version reads {FORMAT_VERSION}: {advice}")
    kinds = {"model": dict, "preprocessor": dict, "class_names": list, "category_ids": list}
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise CheckpointError(f"{file} is damaged: {key!r} must be present and be a JSON {kind.__name__}")
    return content


def read_configs(folder: Path) -> tuple[ModelConfig, PreprocessorConfig]:
    """Read the configuration of the network and of the preprocessing from a checkpoint folder."""
    description = read_description(folder)
    origin = str(folder / DESCRIPTION)
    try:
        return build(ModelConfig, description["model"], origin), build(PreprocessorConfig, description["preprocessor"], origin)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{origin} describes a model that cannot be built: {error}") from None
