"""Save a model in any of the supported formats."""

from pathlib import Path

from conditional_detr.errors import CheckpointError, ConfigError, did_you_mean
from conditional_detr.factory.build import DetectionModel
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.weights import huggingface, native
from conditional_detr.weights import official as release
from conditional_detr.weights.recognise import DESCRIPTION, PREPROCESSOR, RELEASE_FILE, WEIGHTS

FORMATS = {
    "native": (native.write, {WEIGHTS, DESCRIPTION}),
    "huggingface": (huggingface.write, {WEIGHTS, DESCRIPTION, PREPROCESSOR}),
    "official": (release.write, {RELEASE_FILE}),
}


def save_model(model: DetectionModel, folder: str | Path, format: str = "native") -> Path:
    """Save a model as a checkpoint folder. An existing checkpoint is replaced only when the new one is complete.

    Parameters
    ----------
    model : the model to save
    folder : path of the checkpoint folder
    format : "native"; "huggingface", a folder that transformers can load; or "official", which writes a `model.pth` that the
        code of the reference releases can load. The last two support only Conditional DETR and DETR as in the papers, with a
        ResNet backbone

    Raises
    ------
    ConfigError : unknown format
    CheckpointError : the format does not support this variant (the message names the field), the folder cannot be written,
        e.g. because the disk is full, or it contains files that do not belong to a checkpoint

    Returns
    -------
    The path of the folder.
    """
    if format not in FORMATS:
        raise ConfigError(f"there is no format {format!r}. {did_you_mean(format, FORMATS)}")
    write, files = FORMATS[format]
    folder = Path(folder)
    if folder.is_dir() and (others := sorted({p.name for p in folder.iterdir()} - files)):
        raise CheckpointError(
            f"{folder} contains files that do not belong to a checkpoint ({', '.join(others[:3])}): give a new or empty folder"
        )
    with atomic_folder(folder) as new:
        write(model, new)
    return folder
