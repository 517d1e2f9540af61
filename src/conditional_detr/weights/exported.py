"""Read and write folders of exported models: a graph for an inference engine, and a `config.json` that describes it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.errors import CheckpointError
from conditional_detr.storage.json import read_json_object
from conditional_detr.weights.description import describe, read_configs, read_description
from conditional_detr.weights.recognise import DESCRIPTION, EXPORT_KEY

if TYPE_CHECKING:
    from conditional_detr.factory.build import DetectionModel

GRAPHS = {"onnx": "model.onnx", "openvino": "model.xml", "web": "model.onnx"}
ENGINE_OF = {"onnx": "onnx", "openvino": "openvino", "web": "onnx"}  # the engine whose graph a format has
WEIGHT_FILES: dict[str, tuple[str, ...]] = {"onnx": (), "openvino": ("model.bin",), "web": ()}  # additional files of a graph
PRECISIONS = ("fp32", "bf16", "int8")
PROOF = "proof.json"


class Exported(NamedTuple):
    """The description of an exported model.

    Attributes
    ----------
    graph : path of the file that the inference engine reads
    format, precision : a key of `GRAPHS` and one of `PRECISIONS`
    config, preprocessor, class_names, category_ids, thresholds, nms_iou : properties of the original model
    """

    graph: Path
    format: str
    precision: str
    config: ModelConfig
    preprocessor: PreprocessorConfig
    class_names: list[str]
    category_ids: list[int]
    thresholds: list[float] | None
    nms_iou: float | None


def write_description(model: "DetectionModel", folder: Path, format: str, precision: str) -> None:
    """Write the `config.json` of an export: the content of a checkpoint's `config.json`, plus format and precision."""
    description = describe(model) | {EXPORT_KEY: {"format": format, "precision": precision}}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")


def read_exported(folder: Path) -> Exported:
    """Read the description of an export.

    Raises
    ------
    CheckpointError : the description is damaged, or a file of the graph is missing
    """
    description = read_description(folder)
    what = description.get(EXPORT_KEY)
    if not isinstance(what, dict) or what.get("format") not in GRAPHS or what.get("precision") not in PRECISIONS:
        raise CheckpointError(
            f"{folder / DESCRIPTION} is damaged: {EXPORT_KEY!r} must contain a format ({', '.join(GRAPHS)}) and a precision "
            f"({', '.join(PRECISIONS)})"
        )
    config, preprocessor = read_configs(folder)
    names, ids = description["class_names"], description["category_ids"]
    kinds = {str: names, int: ids}
    if any(len(of) != config.num_classes or not all(isinstance(v, kind) for v in of) for kind, of in kinds.items()):
        raise CheckpointError(
            f"{folder / DESCRIPTION} is damaged: each of its {config.num_classes} classes must have a name and an id"
        )
    thresholds = description.get("thresholds")
    numbers = thresholds is None or (
        isinstance(thresholds, list) and len(thresholds) == len(ids) and all(isinstance(v, int | float) for v in thresholds)
    )
    if not numbers:
        raise CheckpointError(f"{folder / DESCRIPTION} is damaged: thresholds must have one score per class")
    nms_iou = description.get("nms_iou")
    if nms_iou is not None and not (isinstance(nms_iou, int | float) and 0 <= nms_iou <= 1):
        raise CheckpointError(f"{folder / DESCRIPTION} is damaged: nms_iou must be in [0, 1]")
    graph = folder / GRAPHS[what["format"]]
    for file in (graph, *(graph.with_name(name) for name in WEIGHT_FILES[what["format"]])):
        if not file.is_file():
            raise CheckpointError(
                f"{file} is missing: the export is incomplete. Copy the whole folder, or export the model again"
            )
    return Exported(graph, what["format"], what["precision"], config, preprocessor, names, ids, thresholds, nms_iou)


def read_proof(folder: Path) -> dict[str, Any]:
    """Read the proof of an export. The dict is empty if there is none."""
    file = folder / PROOF
    return read_json_object(file, CheckpointError) if file.exists() else {}


def read(folder: Path) -> NoReturn:
    """Raise an error, because an export cannot be read as a checkpoint: a graph has no weights to load.

    Raises
    ------
    CheckpointError : always
    """
    exported = read_exported(folder)
    raise CheckpointError(
        f"{folder} is an export ({exported.format}, {exported.precision}): predict, eval, bench and info accept it, but "
        "it cannot be trained, explained, converted or exported again. Use the checkpoint that it was made from"
    )
