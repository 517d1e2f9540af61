"""Writing a model in any of the formats that are read."""

from pathlib import Path

from conditional_detr.errors import CheckpointError, ConfigError, did_you_mean
from conditional_detr.factory.build import DetectionModel
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.weights import huggingface, native
from conditional_detr.weights import official as release
from conditional_detr.weights.files import DESCRIPTION, WEIGHTS

FORMATS = {
    "native": (native.write, {WEIGHTS, DESCRIPTION}),
    "huggingface": (huggingface.write, {WEIGHTS, DESCRIPTION, huggingface.PREPROCESSOR}),
    "official": (release.write, {release.FILE}),
}


def save_model(model: DetectionModel, folder: str | Path, format: str = "native") -> Path:
    """Write a model as a checkpoint folder; what stood there before is replaced only once the new one is whole.

    Parameters
    ----------
    model : its weights are written as they are
    folder : of the checkpoint
    format : "native"; "huggingface", a folder that transformers loads; or "official", which writes `model.pth` as the
        reference releases' code loads it. The last two hold the paper's Conditional DETR and DETR on ResNets

    Raises
    ------
    ConfigError : an unknown format
    CheckpointError : a variant that the format has no room for, by its field; a folder that cannot be written, e.g. because
        the disk is full, or that holds files which are not a checkpoint's

    Returns
    -------
    the folder
    """
    if format not in FORMATS:
        raise ConfigError(f"there is no format {format!r}. {did_you_mean(format, FORMATS)}")
    write, files = FORMATS[format]
    folder = Path(folder)
    if folder.is_dir() and (others := sorted({p.name for p in folder.iterdir()} - files)):
        raise CheckpointError(
            f"{folder} holds what is not a checkpoint's ({', '.join(others[:3])}): give a new or empty folder"
        )
    with atomic_folder(folder) as new:
        write(model, new)
    return folder
