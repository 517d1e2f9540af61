"""Experiment trackers: curves, settings and sample images of a run, through accelerate."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from conditional_detr.config.run import RunConfig, trackers_of
from conditional_detr.config.toml import flat
from conditional_detr.errors import UnavailableError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.inference.batching import detect
from conditional_detr.inference.drawing import draw
from conditional_detr.inference.results import clip_to_image, rows_of, selected
from conditional_detr.training.artifacts.batch_preview import grid

SAMPLES = 4  # validation images that are shown after each evaluated epoch
TILE_SIDE = 640  # longer side of each, px
PROJECT = "conditional-detr"
IDS = "trackers.json"  # ids of the run in its trackers, for --resume
QUIET = {  # variables that switch usage reports off, and those that keep a tracker's files on this machine
    "DO_NOT_TRACK": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a folder without a database; newer versions of MLflow refuse it otherwise
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}


class Trackers:
    """The trackers of a run, which may be none. If one of them fails, it is named and left out; the run continues.

    Parameters
    ----------
    folder : run folder; the trackers write there, unless their own variables name a server
    config : all settings; `config.log` names the trackers
    say : prints a line
    """

    def __init__(self, folder: Path, config: RunConfig, say: Callable[[str], None]) -> None:
        self.folder, self.config, self.say = folder, config, say
        self.running: dict[str, Any] = {}

    def __enter__(self) -> "Trackers":
        """Start all trackers and store the settings."""
        values = flat(self.config.model_dump(mode="json"))
        settings = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in values.items()}
        known = self._ids()  # of a resumed run, whose settings are stored already
        for name in trackers_of(self.config.log):
            tracker = self._attempt(name, partial(_started, name, self.folder, known))
            if tracker is not None:
                self.running[name] = tracker
                if name not in known:
                    self._attempt(name, partial(tracker.store_init_configuration, settings))
        ids = {name: _id_of(name, tracker) for name, tracker in self.running.items()}
        try:
            if ids:
                (self.folder / IDS).write_text(json.dumps(ids), encoding="utf-8")
        except OSError as error:
            self.say(f"warning: {self.folder / IDS} cannot be written ({error}): --resume will begin new runs in the trackers")
        return self

    def epoch(self, row: dict[str, Any], samples: Callable[[], np.ndarray | None]) -> None:
        """Log the numbers of an epoch, and an image of sample detections."""
        if not self.running:
            return
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float) and key != "epoch"}
        image = samples()
        for name, tracker in list(self.running.items()):
            self._attempt(name, partial(tracker.log, numbers, step=row["epoch"]))
            if image is not None and name in self.running:
                self._attempt(name, partial(_log_image, name, tracker, image, row["epoch"]))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name, tracker in list(self.running.items()):
            self._attempt(name, tracker.finish)
        self.running.clear()

    def _ids(self) -> dict[str, str | None]:
        with suppress(OSError, ValueError):
            return dict(json.loads((self.folder / IDS).read_text(encoding="utf-8")))
        return {}

    def _attempt(self, name: str, do: Callable[[], Any]) -> Any:
        """Call a tracker. An error of a tracker must not end a run."""
        try:
            return do()
        except Exception as error:  # each tracker has its own errors
            self.running.pop(name, None)
            self.say(f"warning: nothing more is logged to {name}: {error or type(error).__name__}")
            return None


def check_trackers(log: str) -> None:
    """Check that the packages of all trackers are installed.

    Raises
    ------
    UnavailableError : a package is missing
    """
    for name in trackers_of(log):
        if find_spec(name) is None:
            raise UnavailableError(f"--log {name} needs a package that is not installed: pip install {name}")


def _started(name: str, folder: Path, ids: dict[str, str | None]) -> Any:
    """Start a tracker that writes to the run folder, without usage reports."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()
    kind, run_name = LOGGER_TYPE_TO_CLASS[name], folder.resolve().name
    if name == "tensorboard":
        tracker = kind(name, logging_dir=folder)
    elif name == "mlflow":
        import mlflow

        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri((folder / name).resolve().as_uri())
        tracker = kind(PROJECT, run_id=ids.get(name), run_name=run_name)
    elif name == "wandb":
        tracker = kind(PROJECT, dir=str(folder), name=run_name, id=ids.get(name), resume="allow")
    else:
        os.environ.setdefault("TRACKIO_DIR", str(folder.resolve() / name))
        tracker = kind(PROJECT, name=run_name, resume="allow")
    tracker.start()
    return tracker


def _id_of(name: str, tracker: Any) -> str | None:
    """The id of a run in its tracker; None for trackers that have no ids."""
    if name == "mlflow":
        return str(tracker.tracker.info.run_id)
    return str(tracker.tracker.id) if name == "wandb" else None


def _log_image(name: str, tracker: Any, image: np.ndarray, epoch: int) -> None:
    """Log an image [H, W, 3] under the name "samples"."""
    if name == "tensorboard":
        tracker.log_images({"samples": image[None]}, step=epoch, dataformats="NHWC")
    elif name == "mlflow":
        import mlflow

        mlflow.log_image(image, artifact_file=f"samples/epoch-{epoch:04d}.png")
    elif name == "wandb":
        tracker.log_images({"samples": [image]}, step=epoch)
    else:
        import trackio

        tracker.log({"samples": trackio.Image(image)}, step=epoch)


def sample_detections(model: DetectionModel, paths: Sequence[str]) -> np.ndarray | None:
    """Draw the detections of a model in the first images. Returns uint8 [H, W, 3]; None if no image can be read."""
    tiles: dict[int, np.ndarray] = {}
    was_training = model.training
    model.eval()
    for position, rgb, found in detect(model, list(paths[:SAMPLES]), 1, on_unreadable=lambda position, error: None):
        result = selected(clip_to_image(rgb, found), model, None)
        texts = [f"{model.class_names[row.label]} {row.score:.2f}" for row in rows_of(result)]
        tile = Image.fromarray(draw(rgb, result["boxes"], result["labels"], texts))
        tile.thumbnail((TILE_SIDE, TILE_SIDE))
        tiles[position] = np.array(tile)
    model.train(was_training)
    return grid([tiles[position] for position in sorted(tiles)]) if tiles else None
