"""What a `source` is, found out by looking: a path, else a model name, else a Hub id."""

import logging
import re
from pathlib import Path

import torch

from conditional_detr.config.messages import updated
from conditional_detr.config.presets import PRESETS
from conditional_detr.errors import CheckpointError, ConfigError, SourceError, UnavailableError, did_you_mean
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.storage.atomic import backup_of
from conditional_detr.storage.hub import fetch, fetch_if_there
from conditional_detr.weights import exported, huggingface, native
from conditional_detr.weights import official as release
from conditional_detr.weights.checkpoint import Checkpoint
from conditional_detr.weights.files import DESCRIPTION, WEIGHTS

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SHIPPED = Path(__file__).parents[1] / "shipped"  # trained models that come with the package, folders by their names
FORMATS = (huggingface, exported, native, release)  # asked in this order

logger = logging.getLogger("conditional_detr")


def find_checkpoint(source: str | Path) -> Path | None:
    """The checkpoint that a source means, a folder or a file, or None if it is a model name.

    Raises
    ------
    SourceError : neither an existing path nor a model name nor a Hub id; or a path without a model
    UnavailableError : a Hub id that cannot be fetched
    """
    path = Path(source)
    try:
        return _look_at(path, str(source))
    except OSError as error:
        raise SourceError(f"{str(source)[:200]} cannot be looked at: {error.strerror or error}") from None


def _look_at(path: Path, name: str) -> Path | None:
    if path.is_dir():
        # A kill while a run replaces its best/ leaves the former one beside it.
        for folder in (path, path / "best", backup_of(path / "best"), path / "last"):
            if any(each.claims(folder) for each in FORMATS):
                return folder
        raise SourceError(f"{path} is a folder, but holds no model: neither {DESCRIPTION} nor {release.FILE} nor a run's best/")
    if path.exists():
        if release.claims(path):
            return path
        raise SourceError(
            f"{path} is a file: a model is a checkpoint folder, a run folder, a Hugging Face folder or a file "
            f"{' or '.join('*' + suffix for suffix in release.SUFFIXES)} of the reference releases"
        )
    if name in PRESETS:
        return None
    if name in shipped():
        return SHIPPED / name
    is_file_name = path.suffix in (*release.SUFFIXES, ".safetensors", ".bin", ".onnx")
    if HUB_ID.fullmatch(name) and not is_file_name and not Path(name.split("/")[0]).exists():
        try:
            return _fetch_from_hub(name)
        except UnavailableError as error:
            raise SourceError(f"{name}: there is no such folder here, and as a Hub id: {error}") from None
    raise SourceError(f"{name}: there is no such path, and it is no model name. {did_you_mean(name, [*PRESETS, *shipped()])}")


def shipped() -> list[str]:
    """Names of the trained models that come with the package."""
    return sorted(path.name for path in SHIPPED.iterdir() if native.claims(path))


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of whatever format, as `find_checkpoint` found it."""
    try:
        for each in FORMATS:
            if each.claims(path):
                return each.read(path)  # type: ignore[no-any-return]
    except CheckpointError:
        raise
    except (ConfigError, AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error)[:300]}") from None
    raise SourceError(f"{path} is gone")


def load_model(source: str | Path, num_classes: int | None = None) -> DetectionModel:
    """A model from any source, in eval mode.

    Parameters
    ----------
    source : a run folder (its `best/`), a checkpoint folder, a Hugging Face folder of `conditional_detr` or `detr`, a `.pth`
        of Conditional DETR's or DETR's reference release, a trained model that comes with the package, a model name or a Hub id
    num_classes : another number of classes than the source has keeps everything but the class head, which starts anew; the
        logger `conditional_detr` says so

    Raises
    ------
    SourceError, CheckpointError, UnavailableError
    """
    path = find_checkpoint(source)
    if path is None:
        return create_model(str(source), num_classes=91 if num_classes is None else num_classes).eval()
    model = read_checkpoint(path).build()
    if num_classes is not None and num_classes != (had := model.config.num_classes):
        model = with_new_class_head(model, num_classes)
        logger.warning(
            "%s has %d classes: for %d its class head starts anew, everything else is kept", source, had, num_classes
        )
    return model.eval()


def with_new_class_head(model: DetectionModel, num_classes: int) -> DetectionModel:
    """The same model for other classes: only the class head starts anew, as in a new model."""
    config = updated(model.config, {"num_classes": num_classes}, origin="load_model")
    fresh = DetectionModel(config, model.preprocessor)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("class_head.")}
    with torch.no_grad():
        fresh.load_state_dict(kept, strict=False)
    return fresh


def _fetch_from_hub(repo: str) -> Path:
    """Everything of a repository that makes a model, all of one revision, into the cache; its folder there."""
    folder = fetch(repo, [DESCRIPTION])[0].parent
    revision = folder.name  # the cache names its folders by commit
    if fetch_if_there(repo, WEIGHTS, revision) is None:
        if index := fetch_if_there(repo, huggingface.SHARDS, revision):
            fetch(repo, huggingface.shards_of(index), revision)
        elif fetch_if_there(repo, huggingface.PICKLED, revision) is None:
            raise UnavailableError(f"{repo} has none of {WEIGHTS}, {huggingface.SHARDS}, {huggingface.PICKLED}")
    if huggingface.claims(folder):
        fetch_if_there(repo, huggingface.PREPROCESSOR, revision)
    return folder
