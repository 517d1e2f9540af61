"""The native checkpoint format: a folder with `model.safetensors` and a `config.json` that describes the model.

It contains no code and no pickle files.
"""

import json
from pathlib import Path

from safetensors.torch import save_file

from conditional_detr.factory.build import DetectionModel
from conditional_detr.weights.checkpoint import Checkpoint
from conditional_detr.weights.description import describe, read_configs, read_description
from conditional_detr.weights.files import read_weights, weights_of
from conditional_detr.weights.recognise import DESCRIPTION, WEIGHTS


def write(model: DetectionModel, folder: Path) -> None:
    """Write the two files of a checkpoint to an existing folder."""
    description = describe(model)
    save_file(weights_of(model), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint folder."""
    description = read_description(folder)
    config, preprocessor = read_configs(folder)
    names, ids = description["class_names"], description["category_ids"]
    state = read_weights(folder / WEIGHTS)
    return Checkpoint(
        "checkpoint folder", folder / DESCRIPTION, folder / WEIGHTS, config, preprocessor, names, ids, state,
        thresholds=description.get("thresholds"), nms_iou=description.get("nms_iou"),
    )  # fmt: skip
