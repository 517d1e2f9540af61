"""A whole training run: settings, data, model, the loop, and what is left behind."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from conditional_detr.config import (
    PRESETS,
    RECIPES,
    RecipeConfig,
    RunConfig,
    build,
    updated,
)
from conditional_detr.data.coco import CocoIndex, load_split, read_json
from conditional_detr.data.loader import EpochBatches, TrainingPictures, training_batches
from conditional_detr.data.transforms import Augmentation
from conditional_detr.errors import ConfigError, DataError, did_you_mean
from conditional_detr.evaluation.coco import FIGURES, CocoMetrics, coco_metrics, detections_of
from conditional_detr.factory import DetectionModel, create_model
from conditional_detr.inference.detector import choose_device
from conditional_detr.preprocessing import Preprocessor
from conditional_detr.training.criterion import SetCriterion
from conditional_detr.training.folder import Progress, RunFolder
from conditional_detr.training.optimizer import build_optimizer, lr_factor
from conditional_detr.training.pictures import save_batch_picture
from conditional_detr.training.reporter import Reporter
from conditional_detr.training.step import TrainStep, build_dense
from conditional_detr.weights.source import find_checkpoint, load_model


@dataclass(frozen=True)
class Run:
    """What `train` returns: where everything is, and a row an epoch as in `metrics.jsonl`."""

    folder: Path
    metrics: list[dict[str, Any]]


def train(
    data: str | Path,
    model: str | Path = "conditional-detr-tiny",
    output: str | Path = "runs/train",
    *,
    epochs: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    imgsz: int | None = None,
    recipe: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    threads: int = 0,
    seed: int = 42,
    resume: bool = False,
    patience: int = 0,
    amp: str = "auto",
    pretrained_backbone: bool = True,
    model_overrides: dict[str, Any] | None = None,
    recipe_overrides: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Run:
    """Train a detector on a COCO folder with the splits `train` and `valid`.

    Parameters
    ----------
    data : the folder
    model : a model name, or any source to go on from (fine-tuning; for other classes only the class head starts anew)
    output : the run folder, new or empty unless `resume`
    epochs, batch, lr : None = the recipe's; `lr` moves the backbone's rate in proportion
    imgsz : length of the shorter side after resizing, px; None = what the model is made for
    recipe : "paper" or "fast"; None = the model's
    device : "auto", "cpu", "cuda", …
    workers : processes that load pictures; None = half of the cores but two, which a step can use to the full
    threads : of the processor; 0 = as many as the process may use
    seed : of weights, order and augmentation
    resume : go on with the run in `output`; a finished one is left as it is, where there is none it begins
    patience : stop after so many epochs without a better AP; 0 = never
    amp : "auto", "bf16" or "off"
    pretrained_backbone : ImageNet weights for a model that is built by name
    model_overrides : fields of `ModelConfig`
    recipe_overrides : fields of `RecipeConfig`
    quiet : print nothing

    Returns
    -------
    Run

    Raises
    ------
    ConfigError, DataError, SourceError, UnavailableError, RunError
    KeyboardInterrupt : after Ctrl-C or SIGTERM, once `last/` is saved
    """
    given = {"epochs": epochs, "batch": batch, "lr": lr, "patience": patience or None}
    name = str(model)
    config = resolve(
        name,
        recipe,
        {**(recipe_overrides or {}), **{key: value for key, value in given.items() if value is not None}},
        {
            "data": str(data), "model": name, "output": str(output), "device": device, "threads": threads, "seed": seed,
            "workers": max(0, usable_cores() - 2) // 2 if workers is None else workers, "amp": amp,
            "pretrained_backbone": pretrained_backbone, "model_overrides": model_overrides or {},
        } | ({} if imgsz is None else {"imgsz": imgsz}),
    )  # fmt: skip
    torch.set_num_threads(threads or usable_cores())
    return _Training(config, resume, quiet).run()


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve(name: str, recipe: str | None, recipe_values: dict[str, Any], values: dict[str, Any]) -> RunConfig:
    """All settings of a run: the model's, changed by the recipe's, changed by what was given."""
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}. {did_you_mean(recipe, RECIPES)}")
    chosen = recipe or (PRESETS[name].recipe if name in PRESETS else "fast")
    base = RECIPES[chosen]
    if "lr" in recipe_values and isinstance(recipe_values["lr"], int | float):
        recipe_values = {"lr_backbone": base.lr_backbone * recipe_values["lr"] / base.lr, **recipe_values}
    training = updated(base, recipe_values, origin="train")
    size = {"imgsz": PRESETS[name].imgsz} if name in PRESETS else {}
    return build(RunConfig, {**size, **values, "recipe": chosen, "training": training}, origin="train")


class _Training:
    """One run, from its settings to its folder."""

    def __init__(self, config: RunConfig, resume: bool, quiet: bool) -> None:
        self.config, self.resume, self.quiet = config, resume, quiet
        self.recipe: RecipeConfig = config.training
        self.folder = RunFolder(config.output)
        self.stop_signal: int | None = None

    def run(self) -> Run:
        config = self.config
        train_index, valid_index = load_split(config.data, "train"), load_split(config.data, "valid")
        self._check_data(train_index)
        begun = self.folder.open(config, self.resume)
        accelerator = _accelerator(config.device)
        torch.manual_seed(config.seed)
        model, notes = build_model(config, train_index)
        if config.imgsz != model.preprocessor.imgsz:
            model.preprocessor = updated(model.preprocessor, {"imgsz": config.imgsz, "max_size": 0}, "train")
        model.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        dense = build_dense(model, self.recipe)
        optimizer = build_optimizer(model, self.recipe, dense)
        progress = self.folder.load_last(model, dense, optimizer) if begun else Progress()
        batches = EpochBatches(
            len(train_index), self.recipe.batch, config.seed, accelerator.process_index, accelerator.num_processes
        )
        pictures = TrainingPictures(train_index, Augmentation(self.recipe, config.imgsz), Preprocessor(model.preprocessor))
        criterion = SetCriterion(model.config.num_classes, model.config.classification)
        step = TrainStep(model, criterion, optimizer, self.recipe, config.amp, accelerator, dense)
        reporter = Reporter(self.recipe.epochs, len(batches), self.recipe.batch, self.quiet or not accelerator.is_main_process)
        for line in notes + self._opening(train_index, valid_index, model, begun, progress, step):
            reporter.say(line)
        with reporter, self._signals():
            while progress.epoch < self.recipe.epochs and not self._out_of_patience(progress):
                self._epoch(progress, step, model, batches, pictures, reporter)
                self._close_epoch(progress, step, model, valid_index, reporter)
        if best := next((row for row in progress.history if row["epoch"] == progress.best[1]), None):
            reporter.say(f"best: epoch {best['epoch']}, AP {best['AP']:.3f}, AP50 {best['AP50']:.3f} → {self.folder.best}")
        return Run(self.folder.path, progress.history)

    def _check_data(self, index: CocoIndex) -> None:
        if not len(index.labels):
            raise DataError(f"{index.file} has no usable box: there is nothing to learn. " + "; ".join(index.report))

    def _opening(
        self,
        train: CocoIndex,
        valid: CocoIndex,
        model: DetectionModel,
        begun: bool,
        progress: Progress,
        step: TrainStep,
    ) -> list[str]:
        """The first lines of a run."""
        lines = [
            f"data: {len(train)} pictures, {len(train.labels)} boxes, {len(train.categories)} classes; "
            f"{len(valid)} pictures to validate on",
        ]
        for index in (train, valid):
            lines += [f"  {index.file}: {line}" for line in index.report]
        most = int((train.first[1:] - train.first[:-1]).max())
        if most > model.config.num_queries:
            lines.append(
                f"  a picture has {most} objects, more than the model's {model.config.num_queries} queries can find: "
                f"--set model.num_queries={most + most // 2}"
            )
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        precision = "float32" if step.dtype is None else "bfloat16"
        lines.append(
            f"model: {self.config.model}, {trainable / 1e6:.1f} M trainable parameters, shorter side {self.config.imgsz} px, "
            f"{step.device.type}, {precision}, recipe {self.config.recipe}"
        )
        if begun and progress.epoch >= self.recipe.epochs:
            lines.append(f"{self.folder.path} is finished: {progress.epoch} epochs")
        elif begun:
            lines.append(f"going on after epoch {progress.epoch}, step {progress.position}")
        elif self.resume:
            lines.append(f"{self.folder.path} holds no run yet: starting")
        return lines

    def _epoch(
        self,
        progress: Progress,
        step: TrainStep,
        model: DetectionModel,
        batches: EpochBatches,
        pictures: TrainingPictures,
        reporter: Reporter,
    ) -> None:
        """The steps that are left of an epoch."""
        batches.epoch, batches.position = progress.epoch, progress.position
        started, before = time.monotonic(), progress.seconds
        if progress.position == len(batches):
            return
        for images, padding_mask, targets in training_batches(pictures, batches, self.config.workers):
            if progress.epoch == progress.position == 0:
                save_batch_picture(
                    images,
                    padding_mask,
                    targets,
                    model.preprocessor,
                    model.class_names,
                    self.folder.path / "train_batch.jpg",
                )
            factor = lr_factor(progress.epoch * len(batches) + progress.position, len(batches), self.recipe)
            for group in step.optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            losses = step(images, padding_mask, targets)
            for key, value in losses.items():
                progress.sums[key] = progress.sums.get(key, 0.0) + float(value)
            progress.counted += 1
            progress.position += 1
            progress.seconds = before + time.monotonic() - started
            reporter.step(progress.epoch + 1, progress.position, float(losses["loss"]))
            if self.stop_signal is not None:
                self._stop(progress, step, model, reporter)

    def _close_epoch(
        self,
        progress: Progress,
        step: TrainStep,
        model: DetectionModel,
        valid: CocoIndex,
        reporter: Reporter,
    ) -> None:
        """Evaluate, keep the best, save."""
        reporter.evaluating()
        started = time.monotonic()
        metrics = self._evaluate(model, valid)
        if self.stop_signal is not None:
            self._stop(progress, step, model, reporter)
        row = {
            "epoch": progress.epoch + 1,
            **{key: value / max(1, progress.counted) for key, value in progress.sums.items()},
            "lr": step.optimizer.param_groups[0]["lr"],
            "seconds": round(progress.seconds + time.monotonic() - started, 3),
            **{name: getattr(metrics, name) for name in FIGURES},
        }
        ap = -1.0 if metrics.AP is None else metrics.AP
        is_best = ap > progress.best[0] or not progress.history
        if is_best:
            self.folder.save_best(model)
            progress.best = (ap, progress.epoch + 1)
        progress.history.append(row)
        progress.epoch, progress.position, progress.counted, progress.seconds = progress.epoch + 1, 0, 0, 0.0
        progress.sums = {}
        self.folder.save_last(model, step.helper, step.optimizer, progress)
        reporter.epoch(row, is_best)

    def _evaluate(self, model: DetectionModel, valid: CocoIndex) -> CocoMetrics:
        was_training = model.training
        model.eval()
        results = detections_of(model, valid, self.recipe.batch)
        model.train(was_training)
        return coco_metrics(read_json(valid.file), results)

    def _out_of_patience(self, progress: Progress) -> bool:
        return bool(self.recipe.patience) and progress.epoch - progress.best[1] >= self.recipe.patience

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks the loop to save and stop; the second stops at once."""

        def ask(number: int, frame: Any) -> None:
            self.stop_signal = number
            signal.signal(number, before[signal.Signals(number)])

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, where Python allows no handlers
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, progress: Progress, step: TrainStep, model: DetectionModel, reporter: Reporter) -> None:
        self.folder.save_last(model, step.helper, step.optimizer, progress)
        reporter.say(f"stopped in epoch {progress.epoch + 1} after step {progress.position}: saved, --resume goes on from here")
        raise KeyboardInterrupt


def _accelerator(device: str) -> Any:
    from accelerate import Accelerator

    chosen = choose_device(device)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
    return Accelerator(cpu=chosen.type == "cpu", mixed_precision="no")


def build_model(config: RunConfig, data: CocoIndex) -> tuple[DetectionModel, list[str]]:
    """The model that a run begins with, for the classes of its data, and what is to be said of it."""
    names, ids = [c.name for c in data.categories], [c.id for c in data.categories]
    if find_checkpoint(config.model) is None:
        model = create_model(config.model, len(names), config.pretrained_backbone, names, ids, **config.model_overrides)
        start = "ImageNet weights" if config.pretrained_backbone else "random weights, as asked for"
        return model, [f"backbone {model.config.backbone}: {start}"]
    if config.model_overrides:
        raise ConfigError(f"{config.model} is a trained model: its parts cannot be changed by model_overrides")
    model = load_model(config.model)
    if model.class_names == names:
        model.category_ids = ids
        return model, [f"going on from {config.model}, same classes"]
    had = len(model.class_names)
    model = load_model(config.model, num_classes=len(names)) if had != len(names) else model
    if had == len(names):
        from conditional_detr.weights.source import with_new_class_head

        model = with_new_class_head(model, len(names))
    model.class_names, model.category_ids = names, ids
    return model, [
        f"going on from {config.model}: other classes ({had} before, {len(names)} now), so the class head starts anew"
    ]
