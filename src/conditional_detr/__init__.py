"""Conditional DETR (Meng et al., ICCV 2021): train, evaluate, predict, explain."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conditional_detr.attention_maps import Explanation as Explanation
    from conditional_detr.attention_maps import explain as explain
    from conditional_detr.errors import ConditionalDETRError as ConditionalDETRError
    from conditional_detr.evaluation.coco import CocoMetrics as CocoMetrics
    from conditional_detr.evaluation.coco import coco_metrics as coco_metrics
    from conditional_detr.evaluation.coco import evaluate as evaluate
    from conditional_detr.exporting.export import export as export
    from conditional_detr.factory import DetectionModel as DetectionModel
    from conditional_detr.factory import create_model as create_model
    from conditional_detr.inference.detector import Detector as Detector
    from conditional_detr.model.detr import DetectionOutput as DetectionOutput
    from conditional_detr.preprocessing import postprocess as postprocess
    from conditional_detr.training.criterion import SetCriterion as SetCriterion
    from conditional_detr.training.run import Run as Run
    from conditional_detr.training.run import train as train
    from conditional_detr.training.step import make_step as make_step
    from conditional_detr.weights.save import save_model as save_model
    from conditional_detr.weights.source import load_model as load_model

__version__ = "0.1.0"

_HOME = {
    "CocoMetrics": "evaluation.coco",
    "ConditionalDETRError": "errors",
    "DetectionModel": "factory",
    "DetectionOutput": "model.detr",
    "Detector": "inference.detector",
    "Explanation": "attention_maps",
    "Run": "training.run",
    "SetCriterion": "training.criterion",
    "coco_metrics": "evaluation.coco",
    "create_model": "factory",
    "evaluate": "evaluation.coco",
    "explain": "attention_maps",
    "export": "exporting.export",
    "load_model": "weights.source",
    "make_step": "training.step",
    "postprocess": "preprocessing",
    "save_model": "weights.save",
    "train": "training.run",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
