"""Our checkpoint folder: `model.safetensors` and a `config.json` that says what it is. No code, no pickle."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from conditional_detr.config import ModelConfig, PreprocessorConfig, build, read_json_object
from conditional_detr.errors import CheckpointError, ConfigError, did_you_mean
from conditional_detr.factory import DetectionModel

FORMAT_VERSION = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"
FORMATS = ("native",)


def save_model(model: DetectionModel, folder: str | Path, format: str = "native") -> Path:
    """Write a model as a checkpoint folder; what stood there before is replaced only once the new one is whole.

    Parameters
    ----------
    model : its weights are written as they are
    folder : of the checkpoint
    format : "native"

    Raises
    ------
    ConfigError : an unknown format
    CheckpointError : the folder cannot be written, e.g. the disk is full, or holds files that are not a checkpoint's

    Returns
    -------
    the folder
    """
    if format not in FORMATS:
        raise ConfigError(f"there is no format {format!r}. {did_you_mean(format, FORMATS)}")
    folder = Path(folder)
    if folder.is_dir() and (others := sorted({p.name for p in folder.iterdir()} - {WEIGHTS, DESCRIPTION})):
        raise CheckpointError(
            f"{folder} holds what is not a checkpoint's ({', '.join(others[:3])}): give a new or empty folder"
        )
    with replaced_folder(folder) as new:
        write_checkpoint(model, new)
    return folder


def write_checkpoint(model: DetectionModel, folder: Path) -> None:
    """The two files of a checkpoint, into a folder that exists."""
    description = {
        "format_version": FORMAT_VERSION,
        "model": model.config.model_dump(mode="json"),
        "preprocessor": model.preprocessor.model_dump(mode="json"),
        "class_names": model.class_names,
        "category_ids": model.category_ids,
    }
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")


class replaced_folder:
    """A context that gives a new empty folder, which takes the place of `folder` if nothing went wrong.

    At any moment the old or the new one is whole, under `folder` or, for an instant, beside it as `old`: see `recover`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." has no name to write beside
        self.new, self.old = (self.folder.with_name(f".{self.folder.name}.{what}") for what in ("new", "old"))

    def __enter__(self) -> Path:
        try:
            if self.folder.is_file():
                raise CheckpointError(f"{self.folder} is a file: a checkpoint is a folder")
            shutil.rmtree(self.new, ignore_errors=True)
            self.new.mkdir(parents=True)
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be written: {error.strerror or error}") from None
        return self.new

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            try:
                self._swap()
                return
            except OSError as failed:
                error = failed
        shutil.rmtree(self.new, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            raise CheckpointError(
                f"{self.folder} cannot be written: {getattr(error, 'strerror', None) or error}. What stood there is whole"
            ) from None

    def _swap(self) -> None:
        for file in self.new.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        shutil.rmtree(self.old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(self.old)
        self.new.rename(self.folder)
        shutil.rmtree(self.old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back what a kill between the two renames of a replacement left beside `folder`."""
    old = replaced_folder(folder).old
    if old.exists() and not folder.exists():
        with suppress(FileNotFoundError):  # another process of the run was quicker
            old.rename(folder)


def read_description(folder: Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint folder, checked for what a description must have."""
    file = folder / DESCRIPTION
    content = read_json_object(file, CheckpointError)
    if "format_version" not in content:
        raise CheckpointError(f"{file} does not describe a checkpoint of this library: it has no format_version")
    version = content["format_version"]
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format_version {str(version)[:40]}; this version of the library reads 1 to {FORMAT_VERSION}. "
            "Upgrade conditional-detr"
        )
    kinds = {"model": dict, "preprocessor": dict, "class_names": list, "category_ids": list}
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise CheckpointError(f"{file} is damaged: {key!r} must be there and be a JSON {kind.__name__}")
    return content


def read_configs(folder: Path) -> tuple[ModelConfig, PreprocessorConfig]:
    """What a checkpoint's model is made of, and its preprocessing."""
    description = read_description(folder)
    origin = str(folder / DESCRIPTION)
    try:
        return build(ModelConfig, description["model"], origin), build(PreprocessorConfig, description["preprocessor"], origin)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{origin} describes no model that can be built: {error}") from None


def load_native(folder: Path) -> DetectionModel:
    """A model from a checkpoint folder, in eval mode."""
    description = read_description(folder)
    origin = str(folder / DESCRIPTION)
    try:
        config, preprocessor = read_configs(folder)
        state = read_weights(folder / WEIGHTS)
        with torch.device("meta"):
            expected = DetectionModel(config, preprocessor).state_dict()
        check_state(state, expected, folder / WEIGHTS)
        model = DetectionModel(config, preprocessor, description["class_names"], description["category_ids"])
    except CheckpointError:
        raise
    except (ConfigError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{origin} describes no model that can be built: {error}") from None
    model.load_state_dict(state)
    return model.eval()


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    try:
        return load_file(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: the checkpoint is not whole") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {str(error)[:200]}") from None


def check_state(state: dict[str, Tensor], expected: dict[str, Tensor], file: Path) -> None:
    """Names and shapes must be those of the described model; the first few that differ are named."""
    missing = [f"{key} is missing" for key in expected if key not in state]
    surplus = [f"{key} is not expected" for key in sorted(state) if key not in expected]
    shapes = [
        f"{key} is {list(state[key].shape)}, expected {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if differ := missing + surplus + shapes:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise CheckpointError(f"{file} does not hold the model that {DESCRIPTION} describes: {'; '.join(differ[:3])}{more}")
