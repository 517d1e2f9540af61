"""Pre-training without labels as a task of the training loop."""

from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from conditional_detr.config.presets import PRESETS
from conditional_detr.config.run import RunConfig
from conditional_detr.data.index import SplitIndex
from conditional_detr.data.loader import TrainingImages
from conditional_detr.errors import ConditionalDETRError, ConfigError, DataError, did_you_mean, plural
from conditional_detr.evaluation.coco import CocoMetrics
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.images.decoding import decode
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.pretraining.finding import finding_metrics
from conditional_detr.pretraining.images import PatchImages, image_folder
from conditional_detr.pretraining.objective import PretrainingObjective
from conditional_detr.pretraining.report import sample_of_finding, write_pretraining_report
from conditional_detr.training.artifacts.run_folder import RunFolder
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.execution.distributed import Distributed
from conditional_detr.training.task import Detection

HELD_OUT, MOST_HELD_OUT = 20, 200  # every 20th image measures how well patches are found, at most 200 images
FEWEST = 2  # images: one for pre-training and one to measure it
FEWEST_STEPS = 4  # per epoch; below, a warning says so
NUM_CLASSES = 2  # the first is not used, the second is "patch", as in the released code


class Pretraining(Detection):
    """Find the places of random patches of an image (UP-DETR)."""

    command = "pretrain"
    advice = "Remove them, or allow more with --max-bad"
    objective = PretrainingObjective

    def splits(self, config: RunConfig) -> tuple[SplitIndex, SplitIndex]:
        index = image_folder(config.data)
        if len(index) < FEWEST:
            raise DataError(f"{index.file} has {plural(len(index), 'image')} that can be used: at least {FEWEST} are needed")
        bad = len(index.findings)
        if config.strict and index.report:
            raise DataError(f"{index.file} has problems (stopped by --strict): {'; '.join(index.report)}")
        if bad > config.max_bad * (bad + len(index)):
            raise DataError(
                f"{bad} of {bad + len(index)} images in {index.file} cannot be read, more than {100 * config.max_bad:g}% "
                f"(--max-bad). {self.advice}"
            )
        step = max(HELD_OUT, -(-len(index) // MOST_HELD_OUT))
        found = (self._readable(index, start, step) for start in range(0, len(index), step))
        held_out = {position for position in found if position is not None}
        train = index.without(held_out) if 0 < len(held_out) < len(index) else index
        return train, replace(index.without(set(range(len(index))) - held_out) if held_out else index, findings=[], report=[])

    def _readable(self, index: SplitIndex, start: int, step: int) -> int | None:
        """The first image of a section that can be decoded. Those that cannot stay for training, which reports them."""
        for position in range(start, min(start + step, len(index))):
            with suppress(ConditionalDETRError):
                decode(index.paths[position])
                return position
        return None

    def choose(
        self, config: RunConfig, user_settings: Set[str], train: SplitIndex, saved: RunConfig | None
    ) -> tuple[RunConfig, list[str]]:
        return config, []

    def model(self, config: RunConfig, train: SplitIndex) -> tuple[DetectionModel, list[str]]:
        if config.model not in PRESETS:
            raise ConfigError(f"pretrain needs a model name, not {config.model}. {did_you_mean(config.model, PRESETS)}")
        model = create_model(config.model, NUM_CLASSES, config.pretrained_backbone, **config.model_overrides)
        model.preprocessor = model.preprocessor.model_copy(update={"imgsz": config.imgsz, "max_size": 0})
        start = "ImageNet weights, which are not changed" if config.pretrained_backbone else "random weights, as requested"
        return model, [f"backbone {model.config.backbone}: {start}"]

    def check(self, model: DetectionModel, train: SplitIndex) -> None:
        """Any images fit."""

    def opening(self, train: SplitIndex, valid: SplitIndex, model: DetectionModel, config: RunConfig, where: str) -> list[str]:
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return [
            f"{plural(len(train), 'image')} for pre-training, {plural(len(valid), 'image')} to measure it",
            *(f"  {line}" for line in train.report),
            f"model: {config.model}, {trainable / 1e6:.1f} M trainable parameters, {model.config.patches} patches per image, "
            f"image size {config.imgsz} px (shorter side), {where}",
            *self._warnings(len(train), config.training.batch),
            "AP says how well patches are found in the images that are held out"
            + (". With so few it is noisy; RUN/last has the weights of the last epoch" if len(valid) < HELD_OUT else ""),
        ]

    def _warnings(self, images: int, batch: int) -> list[str]:
        few = images < FEWEST_STEPS * batch
        steps = plural(max(1, images // batch), "step")
        return [f"  warning: with --batch {batch}, an epoch has only {steps}. Give a smaller --batch"] if few else []

    def images(self, train: SplitIndex, model: DetectionModel, config: RunConfig) -> TrainingImages:
        sizes = (config.imgsz, model.config.patches, model.config.num_queries)
        return PatchImages(train, Preprocessor(model.preprocessor), *sizes)

    def evaluate(
        self, model: DetectionModel, index: SplitIndex, batch: int, processes: Distributed
    ) -> tuple[CocoMetrics, dict[int, str]]:
        return finding_metrics(model, index, model.preprocessor.imgsz, processes)

    def finalize(
        self, folder: RunFolder, config: RunConfig, facts: dict[str, str], state: TrainerState, valid: SplitIndex
    ) -> None:
        write_pretraining_report(folder, config, valid, state.history)

    def samples(self, model: DetectionModel, valid: SplitIndex) -> np.ndarray | None:
        return sample_of_finding(model, valid)

    def next_step(self, folder: Path) -> tuple[str, Sequence[Any]]:
        return "train a detector from it", ("cdetr", "train", "--model", folder, "--data", "DIR")
