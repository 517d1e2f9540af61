"""Load a model from a `source`, which is a path, a model name or a Hub id."""

import logging
from pathlib import Path

import torch

from conditional_detr.config.messages import updated
from conditional_detr.config.presets import imgsz_of
from conditional_detr.errors import CheckpointError, ConfigError, SourceError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.weights import exported, huggingface, native
from conditional_detr.weights import official as release
from conditional_detr.weights.checkpoint import Checkpoint
from conditional_detr.weights.recognise import find_checkpoint, is_checkpoint, is_export, is_huggingface, is_release

READERS = {  # tried in this order
    is_huggingface: huggingface.read,
    is_export: exported.read,
    is_checkpoint: native.read,
    is_release: release.read,
}

logger = logging.getLogger("conditional_detr")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of any format, from a path that `find_checkpoint` returned."""
    try:
        for claims, read in READERS.items():
            if claims(path):
                return read(path)
    except CheckpointError:
        raise
    except (ConfigError, AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error)[:300]}") from None
    raise SourceError(f"{path} no longer exists")


def load_model(source: str | Path, num_classes: int | None = None) -> DetectionModel:
    """Load a model from any source, in eval mode.

    Parameters
    ----------
    source : a run folder (its `best/` is loaded), a checkpoint folder, a Hugging Face folder of `conditional_detr`, `detr` or
        `deformable_detr`, a `.pth` file of the reference release of Conditional DETR, DETR, Deformable DETR (single scale) or
        UP-DETR, the name of a trained model that comes with the package, a model name or a Hub id
    num_classes : number of classes; None = as in the source. If it differs from the source, the class head is initialised
        anew, and all other weights are kept. A model that was pre-trained without labels becomes a detector. The logger
        `conditional_detr` then emits a warning

    Raises
    ------
    SourceError, CheckpointError, UnavailableError
    """
    path = find_checkpoint(source)
    if path is None:
        return create_model(str(source), num_classes=91 if num_classes is None else num_classes).eval()
    model = read_checkpoint(path).build()
    if num_classes is not None and model.config.patches:
        model = with_new_class_head(model, num_classes)
        logger.warning(
            "%s was pre-trained without labels: for %d classes the class head is initialised anew, the parts that only "
            "pre-training uses are dropped, and all other weights are kept", source, num_classes,
        )  # fmt: skip
    elif num_classes is not None and num_classes != (had := model.config.num_classes):
        model = with_new_class_head(model, num_classes)
        logger.warning(
            "%s has %d classes: for %d the class head is initialised anew, all other weights are kept", source, had, num_classes
        )
    return model.eval()


def load_detector(source: str | Path | DetectionModel) -> DetectionModel:
    """Load a model that detects objects, in eval mode, as `load_model` does. A model is returned as it is.

    Raises
    ------
    ConfigError : the model was pre-trained without labels
    SourceError, CheckpointError, UnavailableError
    """
    model = source if isinstance(source, DetectionModel) else load_model(source)
    if model.config.patches:
        name, folder = ("the model", "FOLDER") if model is source else (source, source)
        raise ConfigError(
            f"{name} was pre-trained without labels and detects nothing yet. Train a detector from it: "
            f"cdetr train --model {folder} --data DIR"
        )
    return model


def with_new_class_head(model: DetectionModel, num_classes: int) -> DetectionModel:
    """Return a copy of a model for other classes. Its class head is initialised anew; all other weights are kept.

    A model for pre-training becomes a detector, without the parts that only pre-training uses. Its image size is then that of
    the named models with the same backbone, as pre-training uses smaller images.
    """
    config = updated(model.config, {"num_classes": num_classes, "patches": 0}, origin="load_model")
    preprocessor = model.preprocessor
    if model.config.patches:
        preprocessor = updated(preprocessor, {"imgsz": imgsz_of(config), "max_size": 0}, origin="load_model")
    fresh = DetectionModel(config, preprocessor)
    own = fresh.state_dict().keys()
    kept = {key: value for key, value in model.state_dict().items() if key in own and not key.startswith("class_head.")}
    with torch.no_grad():
        fresh.load_state_dict(kept, strict=False)
    return fresh
