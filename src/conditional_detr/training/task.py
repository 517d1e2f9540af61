"""What a run learns: its data, its model, its losses, and how it is evaluated. `train` learns to detect objects.

The training loop, saving and resuming, the schedule and several processes are the same for every task.
"""

from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from conditional_detr.config.run import RunConfig
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.index import SplitIndex, load_split
from conditional_detr.data.loader import TrainingImages
from conditional_detr.errors import ConfigError
from conditional_detr.evaluation.coco import CocoMetrics
from conditional_detr.factory.build import DetectionModel
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.training.artifacts.finalize import finalize_run
from conditional_detr.training.artifacts.run_folder import RunFolder
from conditional_detr.training.artifacts.trackers import sample_detections
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.execution.distributed import Distributed
from conditional_detr.training.execution.shared_evaluation import evaluate_together
from conditional_detr.training.objective.objective import Objective
from conditional_detr.training.setup.auto_config import resolve_auto
from conditional_detr.training.setup.data_checks import check_data, opening
from conditional_detr.training.setup.initial_weights import build_model, check_classes


class Detection:
    """Detect the objects of a data set with boxes."""

    command = "train"
    advice = "`cdetr doctor` lists them all; with --fix it writes a copy of the data set without them"
    objective = Objective

    def splits(self, config: RunConfig) -> tuple[SplitIndex, SplitIndex]:
        """Load the training and the validation images.

        Raises
        ------
        ConfigError : the settings are those of a pre-training
        DataError : the data cannot be used
        """
        if patches := config.model_overrides.get("patches"):
            raise ConfigError(
                f"model.patches = {patches} is for pre-training without labels. Use `cdetr pretrain`, also to resume such a run"
            )
        train, valid = load_split(config.data, "train"), load_split(config.data, "valid")
        check_data(train, valid, config.strict, config.max_bad)
        return train, valid

    def choose(
        self, config: RunConfig, user_settings: Set[str], train: SplitIndex, saved: RunConfig | None
    ) -> tuple[RunConfig, list[str]]:
        """Choose settings from the data, see `resolve_auto`."""
        return resolve_auto(config, user_settings, train, saved)

    def model(self, config: RunConfig, train: SplitIndex) -> tuple[DetectionModel, list[str]]:
        """Build the initial model. Returns it, and lines to print."""
        return build_model(config, train)

    def check(self, model: DetectionModel, train: SplitIndex) -> None:
        """Raise `RunError` if a resumed model does not fit the data."""
        check_classes(model, train)

    def opening(self, train: SplitIndex, valid: SplitIndex, model: DetectionModel, config: RunConfig, where: str) -> list[str]:
        """Lines to print at the start."""
        return opening(train, valid, model, config, where)

    def images(self, train: SplitIndex, model: DetectionModel, config: RunConfig) -> TrainingImages:
        """The training images with their targets."""
        return TrainingImages(
            train, Augmentation(config.training, config.imgsz, model.preprocessor.tile), Preprocessor(model.preprocessor)
        )

    def evaluate(
        self, model: DetectionModel, index: SplitIndex, batch: int, processes: Distributed
    ) -> tuple[CocoMetrics, dict[int, str]]:
        """Compute the metrics of an epoch, see `evaluate_together`."""
        return evaluate_together(model, index, batch, processes)

    def samples(self, model: DetectionModel, valid: SplitIndex) -> np.ndarray | None:
        """An image for the trackers that shows what the model finds, uint8 [H, W, 3], or None."""
        return sample_detections(model, valid.paths)

    def finalize(
        self, folder: RunFolder, config: RunConfig, facts: dict[str, str], state: TrainerState, valid: SplitIndex
    ) -> None:
        """Write the report of a finished run. `valid` are the validation images that could be used."""
        finalize_run(folder, config, facts, state)

    def next_step(self, folder: Path) -> tuple[str, Sequence[Any]]:
        """What to do with a finished run: a purpose and a command."""
        return "detect objects in images", ("cdetr", "predict", folder, "IMAGES")
