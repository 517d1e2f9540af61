"""Recognise what a `source` is: a path, a model name or a Hub id; and which format a folder or file has.

The kind of source is detected automatically. An existing path comes first, then a model name, then a Hub id. This only looks at
names and descriptions, so it needs no torch.
"""

import re
from pathlib import Path

from conditional_detr.config.presets import PRESETS
from conditional_detr.errors import CheckpointError, SourceError, UnavailableError, did_you_mean
from conditional_detr.storage.atomic import backup_of
from conditional_detr.storage.hub import fetch, fetch_if_there
from conditional_detr.storage.json import read_json_object

WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"
EXPORT_KEY = "export"  # only the description of an export has it
RELEASE_FILE, RELEASE_SUFFIXES = "model.pth", (".pth", ".pt")
PREPROCESSOR, SHARDS, PICKLED = "preprocessor_config.json", "model.safetensors.index.json", "pytorch_model.bin"  # transformers
FILE_SUFFIXES = (*RELEASE_SUFFIXES, ".safetensors", ".bin", ".onnx")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SHIPPED = Path(__file__).parents[1] / "shipped"  # one folder per trained model that comes with the package


def is_huggingface(path: Path) -> bool:
    """Whether a path is a folder written by transformers."""
    if not (path / DESCRIPTION).is_file():
        return False
    text = (path / DESCRIPTION).read_bytes()
    return b'"model_type"' in text and b'"format_version"' not in text


def is_export(path: Path) -> bool:
    """Whether a path is a folder written by `export`."""
    file = path / DESCRIPTION
    if not is_checkpoint(path) or f'"{EXPORT_KEY}"'.encode() not in file.read_bytes():
        return False
    try:
        return EXPORT_KEY in read_json_object(file, CheckpointError)
    except CheckpointError:
        return False


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a folder with a `config.json`. Other formats that have one must be tried first."""
    return (path / DESCRIPTION).is_file()


def is_release(path: Path) -> bool:
    """Whether a path is a checkpoint of the reference releases, or a folder with one that `save_model` wrote."""
    return (path.is_file() and path.suffix in RELEASE_SUFFIXES) or (path / RELEASE_FILE).is_file()


def is_model(path: Path) -> bool:
    """Whether a path is a model of any format."""
    return any(claims(path) for claims in (is_huggingface, is_export, is_checkpoint, is_release))


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, org/name, and not that of a file name.

    >>> is_hub_id("org/cells"), is_hub_id("runs/model.pth"), is_hub_id("cells")
    (True, False, False)
    """
    return HUB_ID.fullmatch(name) is not None and Path(name).suffix not in FILE_SUFFIXES


def shards_of(index: Path) -> list[str]:
    """Return the names of the weight files that an index lists."""
    shards = read_json_object(index, CheckpointError).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) and Path(s).name == s for s in shards.values()):
        raise CheckpointError(f"{index} must say in 'weight_map' which file of the folder holds which tensor")
    return sorted(set(shards.values()))


def find_checkpoint(source: str | Path) -> Path | None:
    """Return the checkpoint folder or file that `source` refers to, or None if it is a model name.

    A Hub id is downloaded first.

    Raises
    ------
    SourceError : not an existing path, a model name or an available Hub id; or a path without a model
    """
    path = Path(source)
    try:
        return _look_at(path, str(source))
    except OSError as error:
        raise SourceError(f"{str(source)[:200]} cannot be accessed: {error.strerror or error}") from None


def _look_at(path: Path, name: str) -> Path | None:
    if path.is_dir():
        # If a run was killed while replacing best/, the previous one is at its backup path.
        for folder in (path, path / "best", backup_of(path / "best"), path / "last"):
            if is_model(folder):
                return folder
        raise SourceError(f"{path} is a folder, but holds no model: neither {DESCRIPTION} nor {RELEASE_FILE} nor a run's best/")
    if path.exists():
        if is_release(path):
            return path
        raise _not_a_model(path)
    if name in PRESETS:
        return None
    if name in shipped():
        return SHIPPED / name
    if is_hub_id(name) and not Path(name.split("/")[0]).exists():
        try:
            return _fetch_from_hub(name)
        except UnavailableError as error:
            raise SourceError(f"{name} is not an existing folder, and loading it as a Hub id failed: {error}") from None
    raise SourceError(f"{name} is neither an existing path nor a model name. {did_you_mean(name, [*PRESETS, *shipped()])}")


def _not_a_model(file: Path) -> SourceError:
    if is_model(file.parent):
        return SourceError(f"{file} is a file of a model: give its folder, {file.parent}")
    return SourceError(
        f"{file} is a file: a model is a checkpoint folder, a run folder, a Hugging Face folder or a file "
        f"{' or '.join('*' + suffix for suffix in RELEASE_SUFFIXES)} of the reference releases"
    )


def shipped() -> list[str]:
    """Return the names of the trained models that come with the package."""
    return sorted(path.name for path in SHIPPED.iterdir() if is_checkpoint(path))


def _fetch_from_hub(repo: str) -> Path:
    """Download the files of a model, all of one revision, to the Hub cache. Return their folder there."""
    folder = fetch(repo, [DESCRIPTION])[0].parent
    revision = folder.name  # folders in the cache are named by commit
    if fetch_if_there(repo, WEIGHTS, revision) is None:
        if index := fetch_if_there(repo, SHARDS, revision):
            fetch(repo, shards_of(index), revision)
        elif fetch_if_there(repo, PICKLED, revision) is None:
            raise UnavailableError(f"{repo} has no weights: it must contain {WEIGHTS}, {SHARDS} or {PICKLED}")
    if is_huggingface(folder):
        fetch_if_there(repo, PREPROCESSOR, revision)
    return folder
