"""What a `source` is, found out by looking: a path, else a model name, else a Hub id."""

import re
from pathlib import Path

import torch

from conditional_detr.config import PRESETS
from conditional_detr.errors import SourceError, UnavailableError, did_you_mean
from conditional_detr.factory import DetectionModel, create_model
from conditional_detr.hub import fetch
from conditional_detr.weights.native import DESCRIPTION, WEIGHTS, load_native, replaced_folder

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_checkpoint(source: str | Path) -> Path | None:
    """The checkpoint folder that a source means, or None if it is a model name.

    Raises
    ------
    SourceError : neither an existing path nor a model name nor a Hub id; or a folder without a model
    UnavailableError : a Hub id that cannot be fetched
    """
    path = Path(source)
    if path.is_dir():
        # A kill while a run replaces its best/ leaves the former one beside it.
        for folder in (path, path / "best", replaced_folder(path / "best").old, path / "last"):
            if (folder / DESCRIPTION).is_file():
                return folder
        raise SourceError(f"{path} is a folder, but holds no model: neither {DESCRIPTION} nor a run's best/")
    if path.exists():
        raise SourceError(f"{path} is a file: a model is a checkpoint folder or a run folder")
    name = str(source)
    if name in PRESETS:
        return None
    if HUB_ID.fullmatch(name) and not Path(name.split("/")[0]).exists():
        try:
            return fetch(name, [DESCRIPTION, WEIGHTS])[0].parent
        except UnavailableError as error:
            raise SourceError(f"{name}: there is no such folder here, and as a Hub id: {error}") from None
    raise SourceError(f"{name}: there is no such path, and it is no model name. {did_you_mean(name, PRESETS)}")


def load_model(source: str | Path, num_classes: int | None = None) -> DetectionModel:
    """A model from any source, in eval mode.

    Parameters
    ----------
    source : a run folder (its `best/`), a checkpoint folder, a model name or a Hub id
    num_classes : another number of classes than the source has keeps everything but the class head, which starts anew

    Raises
    ------
    SourceError, CheckpointError, UnavailableError
    """
    folder = find_checkpoint(source)
    if folder is None:
        return create_model(str(source), num_classes=91 if num_classes is None else num_classes).eval()
    model = load_native(folder)
    if num_classes is not None and num_classes != model.config.num_classes:
        model = with_new_class_head(model, num_classes)
    return model.eval()


def with_new_class_head(model: DetectionModel, num_classes: int) -> DetectionModel:
    """The same model for other classes: only the class head starts anew, with the prior probability of 0.01."""
    config = model.config.model_copy(update={"num_classes": num_classes})
    fresh = DetectionModel(config, model.preprocessor)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("class_head.")}
    with torch.no_grad():
        fresh.load_state_dict(kept, strict=False)
    return fresh
