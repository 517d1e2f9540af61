"""Object detection with Conditional DETR (Meng et al., ICCV 2021): train, evaluate, predict and explain."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conditional_detr.doctor.cross_validation import cross_validate as cross_validate
    from conditional_detr.errors import ConditionalDETRError as ConditionalDETRError
    from conditional_detr.evaluation.coco import CocoMetrics as CocoMetrics
    from conditional_detr.evaluation.coco import coco_metrics as coco_metrics
    from conditional_detr.evaluation.coco import evaluate as evaluate
    from conditional_detr.explaining.maps import Explanation as Explanation
    from conditional_detr.explaining.maps import explain as explain
    from conditional_detr.exporting.export import export as export
    from conditional_detr.factory.build import DetectionModel as DetectionModel
    from conditional_detr.factory.create import create_model as create_model
    from conditional_detr.images.postprocessing import postprocess as postprocess
    from conditional_detr.inference.detector import Detector as Detector
    from conditional_detr.model.detr import DetectionOutput as DetectionOutput
    from conditional_detr.pretraining.forward import pretraining_output as pretraining_output
    from conditional_detr.pretraining.pretrain import pretrain as pretrain
    from conditional_detr.training.objective.criterion import SetCriterion as SetCriterion
    from conditional_detr.training.train_step import make_step as make_step
    from conditional_detr.training.trainer import Run as Run
    from conditional_detr.training.trainer import train as train
    from conditional_detr.weights.discovery import load_model as load_model
    from conditional_detr.weights.save import save_model as save_model

__version__ = "0.1.0"

_HOME = {
    "CocoMetrics": "evaluation.coco",
    "ConditionalDETRError": "errors",
    "DetectionModel": "factory.build",
    "DetectionOutput": "model.detr",
    "Detector": "inference.detector",
    "Explanation": "explaining.maps",
    "Run": "training.trainer",
    "SetCriterion": "training.objective.criterion",
    "coco_metrics": "evaluation.coco",
    "create_model": "factory.create",
    "cross_validate": "doctor.cross_validation",
    "evaluate": "evaluation.coco",
    "explain": "explaining.maps",
    "export": "exporting.export",
    "load_model": "weights.discovery",
    "make_step": "training.train_step",
    "postprocess": "images.postprocessing",
    "pretrain": "pretraining.pretrain",
    "pretraining_output": "pretraining.forward",
    "save_model": "weights.save",
    "train": "training.trainer",
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
