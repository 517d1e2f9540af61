"""Load a model from a `source`, which is a path, a model name or a Hub id.

The kind of source is detected automatically. An existing path comes first, then a model name, then a Hub id.
"""

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
SHIPPED = Path(__file__).parents[1] / "shipped"  # one folder per trained model that comes with the package
FORMATS = (huggingface, exported, native, release)  # tried in this order

logger = logging.getLogger("conditional_detr")


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
            if any(each.claims(folder) for each in FORMATS):
                return folder
        raise SourceError(f"{path} is a folder, but holds no model: neither {DESCRIPTION} nor {release.FILE} nor a run's best/")
    if path.exists():
        if release.claims(path):
            return path
        raise _not_a_model(path)
    if name in PRESETS:
        return None
    if name in shipped():
        return SHIPPED / name
    is_file_name = path.suffix in (*release.SUFFIXES, ".safetensors", ".bin", ".onnx")
    if HUB_ID.fullmatch(name) and not is_file_name and not Path(name.split("/")[0]).exists():
        try:
            return _fetch_from_hub(name)
        except UnavailableError as error:
            raise SourceError(f"{name} is not an existing folder, and loading it as a Hub id failed: {error}") from None
    raise SourceError(f"{name} is neither an existing path nor a model name. {did_you_mean(name, [*PRESETS, *shipped()])}")


def _not_a_model(file: Path) -> SourceError:
    if any(each.claims(file.parent) for each in FORMATS):
        return SourceError(f"{file} is a file of a model: give its folder, {file.parent}")
    return SourceError(
        f"{file} is a file: a model is a checkpoint folder, a run folder, a Hugging Face folder or a file "
        f"{' or '.join('*' + suffix for suffix in release.SUFFIXES)} of the reference releases"
    )


def shipped() -> list[str]:
    """Return the names of the trained models that come with the package."""
    return sorted(path.name for path in SHIPPED.iterdir() if native.claims(path))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of any format, from a path that `find_checkpoint` returned."""
    try:
        for each in FORMATS:
            if each.claims(path):
                return each.read(path)  # type: ignore[no-any-return]
    except CheckpointError:
        raise
    except (ConfigError, AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error)[:300]}") from None
    raise SourceError(f"{path} no longer exists")


def load_model(source: str | Path, num_classes: int | None = None) -> DetectionModel:
    """Load a model from any source, in eval mode.

    Parameters
    ----------
    source : a run folder (its `best/` is loaded), a checkpoint folder, a Hugging Face folder of `conditional_detr` or `detr`, a
        `.pth` file of the reference release of Conditional DETR or DETR, the name of a trained model that comes with the
        package, a model name or a Hub id
    num_classes : number of classes; None = as in the source. If it differs from the source, the class head is initialised
        anew, and all other weights are kept. The logger `conditional_detr` then emits a warning

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
            "%s has %d classes: for %d the class head is initialised anew, all other weights are kept", source, had, num_classes
        )
    return model.eval()


def with_new_class_head(model: DetectionModel, num_classes: int) -> DetectionModel:
    """Return a copy of a model for other classes. Its class head is initialised anew; all other weights are kept."""
    config = updated(model.config, {"num_classes": num_classes}, origin="load_model")
    fresh = DetectionModel(config, model.preprocessor)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("class_head.")}
    with torch.no_grad():
        fresh.load_state_dict(kept, strict=False)
    return fresh


def _fetch_from_hub(repo: str) -> Path:
    """Download the files of a model, all of one revision, to the Hub cache. Return their folder there."""
    folder = fetch(repo, [DESCRIPTION])[0].parent
    revision = folder.name  # folders in the cache are named by commit
    if fetch_if_there(repo, WEIGHTS, revision) is None:
        if index := fetch_if_there(repo, huggingface.SHARDS, revision):
            fetch(repo, huggingface.shards_of(index), revision)
        elif fetch_if_there(repo, huggingface.PICKLED, revision) is None:
            raise UnavailableError(
                f"{repo} has no weights: it must contain {WEIGHTS}, {huggingface.SHARDS} or {huggingface.PICKLED}"
            )
    if huggingface.claims(folder):
        fetch_if_there(repo, huggingface.PREPROCESSOR, revision)
    return folder
