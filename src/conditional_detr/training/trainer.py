"""A whole training run: settings, data, model, the loop, and what is left behind."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from conditional_detr.config.run import RunConfig
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.index import load_split
from conditional_detr.data.loader import Batch, EpochBatches, TrainingImages, Unusable, training_batches
from conditional_detr.device.seeding import seed_generators
from conditional_detr.device.threads import set_threads, usable_cores
from conditional_detr.errors import ConditionalDETRError, RunError
from conditional_detr.evaluation.coco import FIGURES, CocoMetrics, coco_metrics, detections_of
from conditional_detr.factory.build import DetectionModel
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.storage.run_files import REPORT
from conditional_detr.training.artifacts.batch_preview import save_batch_preview
from conditional_detr.training.artifacts.console_logger import ConsoleLogger, figure
from conditional_detr.training.artifacts.finalize import finalize_run, run_facts
from conditional_detr.training.artifacts.nonfinite_dump import FOLDER as FLIGHT
from conditional_detr.training.artifacts.nonfinite_dump import dump_step
from conditional_detr.training.artifacts.run_folder import RunFolder
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.execution.distributed import Distributed, launched
from conditional_detr.training.execution.interrupts import StopRequest
from conditional_detr.training.optim.optimizer import build_optimizer, lr_factor
from conditional_detr.training.optim.progressive_resize import resized, size_factor
from conditional_detr.training.optim.query_groups import auxiliary_modules
from conditional_detr.training.optim.run_schedule import RunSchedule
from conditional_detr.training.optim.weight_average import averaged
from conditional_detr.training.setup.auto_config import resolve_auto
from conditional_detr.training.setup.bad_images import BadImages
from conditional_detr.training.setup.data_checks import check_data, opening
from conditional_detr.training.setup.initial_weights import build_model, check_classes
from conditional_detr.training.setup.resolve import resolve
from conditional_detr.training.train_step import TrainStep, autocast_dtype, build_criterion

MOST_SKIPPED = 20  # steps in a row without a finite gradient, after which a run stops


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
    minutes: float | None = None,
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
    freeze: int | None = None,
    pretrained_backbone: bool = True,
    model_overrides: dict[str, Any] | None = None,
    recipe_overrides: dict[str, Any] | None = None,
    strict: bool = False,
    max_bad: float = 0.25,
    quiet: bool = False,
) -> Run:
    """Train a detector on a COCO folder with the splits `train` and `valid`.

    Parameters
    ----------
    data : the folder
    model : a model name, or any source to go on from (fine-tuning; for other classes only the class head starts anew)
    output : the run folder, new or empty unless `resume`
    epochs, batch, lr : None = the recipe's; `lr` moves the backbone's rate in proportion
    minutes : whatever `epochs`, the run, its evaluations and its report end after so long, and the schedule with it
    imgsz : length of the shorter side after resizing, px; None = what the model is made for or was trained at
    recipe : "paper" or "fast"; None = the model's, for a checkpoint that of the model name with its backbone
    device : "auto", "cpu", "cuda", …
    workers : processes that load images; None = half of the cores but two, which a step can use to the full
    threads : of the processor; 0 = as many as the process may use
    seed : of weights, order and augmentation
    resume : go on with the run in `output`; a finished one is left as it is, where there is none it begins
    patience : stop after so many epochs without a better AP, not while images grow; 0 = never
    amp : "auto", "bf16" or "off"
    freeze : stages of the backbone that stay as they are, the first ones; None = the recipe's
    pretrained_backbone : ImageNet weights for a model that is built by name
    model_overrides : fields of `ModelConfig`
    recipe_overrides : fields of `RecipeConfig`
    strict : stop at whatever is wrong with an annotation or an image, instead of leaving it out and saying so
    max_bad : the share of a split's images that may be unusable before a run stops
    quiet : print nothing

    Returns
    -------
    Run

    Raises
    ------
    ConfigError, DataError, SourceError, UnavailableError, RunError
    KeyboardInterrupt : after Ctrl-C or SIGTERM, once `last/` is saved
    """
    started = time.monotonic()
    given = {"epochs": epochs, "minutes": minutes, "batch": batch, "lr": lr, "freeze": freeze, "patience": patience or None}
    name = str(Path(model).resolve() if Path(model).exists() else model)
    cores = max(1, usable_cores() // (launched("local_world") or 1))  # the processes of a machine share them
    config = resolve(
        name,
        recipe,
        {**(recipe_overrides or {}), **{key: value for key, value in given.items() if value is not None}},
        {
            "data": str(Path(data).resolve()), "model": name, "output": str(output), "device": device, "threads": threads,
            "seed": seed, "workers": max(0, cores - 2) // 2 if workers is None else workers, "amp": amp,
            "pretrained_backbone": pretrained_backbone, "model_overrides": model_overrides or {}, "strict": strict,
            "max_bad": max_bad,
        } | ({} if imgsz is None else {"imgsz": imgsz}),
    )  # fmt: skip
    said = {**given, "imgsz": imgsz, **(recipe_overrides or {})}
    asked_for = {key for key, value in said.items() if value is not None} | {
        f"model.{field}" for field in model_overrides or {}
    }
    set_threads(threads or cores)
    with nullcontext() if launched("rank") else RunFolder(output).held(), Distributed(config.device) as processes:
        return Trainer(config, asked_for, resume, quiet, processes, started).run()


class Trainer:
    """One run, from its settings to its folder. Nothing is written before all of it could be built."""

    def __init__(
        self, config: RunConfig, asked_for: set[str], resume: bool, quiet: bool, processes: Distributed, started: float
    ) -> None:
        self.processes, self.started = processes, started
        train, self.valid = self.indices = load_split(config.data, "train"), load_split(config.data, "valid")
        check_data(train, self.valid, config.strict, config.max_bad)
        self.folder = RunFolder(config.output)
        saved = self.folder.config() if resume and self.folder.has_begun else None
        config, choices = processes.gathered([resolve_auto(config, asked_for, train, saved)])[0]  # all go by the first one's
        self.config, self.recipe = config, config.training
        begun = self.folder.check(config, resume)
        torch.manual_seed(config.seed)
        self.model, notes = (self.folder.last_model(), []) if begun else build_model(config, train)
        if begun:
            check_classes(self.model, train)
        self.model.to(self.processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        helpers = auxiliary_modules(self.model, self.recipe)
        optimizer = build_optimizer(self.model, self.recipe, helpers)
        self.average = averaged(self.model, self.recipe.weight_average) if self.recipe.weight_average else None
        self.beside: dict[str, nn.Module] = {"helper": helpers} | ({} if self.average is None else {"average": self.average})
        self.progress = self.folder.load_last(self.beside, optimizer) if begun else TrainerState()
        self.started -= self.progress.spent  # as if it had never been stopped
        self.batches = EpochBatches(len(train), self.recipe.batch, config.seed, self.processes.rank, self.processes.world)
        self.plan = RunSchedule(self.recipe, len(self.batches), len(self.valid))
        self.logger = ConsoleLogger(self.plan, self.recipe.batch, quiet or not self.processes.is_main)
        criterion, say = build_criterion(self.model, self.recipe), self.logger.say
        amp = "off" if processes.any(autocast_dtype(config.amp, processes.device) is None) else "bf16"
        self.step = TrainStep(self.model, criterion, optimizer, self.recipe, amp, processes.accelerator, helpers, say)
        self.step.grad_accum_steps = max(self.step.grad_accum_steps, self.progress.grad_accum_steps)
        self.images = TrainingImages(train, Augmentation(self.recipe, config.imgsz), Preprocessor(self.model.preprocessor))
        where = f"{self.processes.device.type}, {'float32' if self.step.dtype is None else 'bfloat16'}"
        self.lines = notes + opening(train, self.valid, self.model, config, where) + choices
        if begun and self._is_over():
            self.lines.append(f"{self.folder.path} is finished: {self.progress.epoch} epochs")
        elif begun:
            self.lines.append(f"going on after epoch {self.progress.epoch}, step {self.progress.position}")
        elif resume:
            self.lines.append(f"{self.folder.path} holds no run yet: starting")
        missing = {"train": len(train.missing), "valid": len(self.valid.missing)}
        self.bad_images = BadImages(config.strict, config.max_bad, self.logger.say, missing)
        self.stop = StopRequest()

    def run(self) -> Run:
        self.processes.wait()  # all have looked at the folder before one writes into it
        if self.processes.is_main and not self._is_over():
            self.folder.create(self.config)
        for line in self.lines:
            self.logger.say(line)
        with self.logger, self.stop.heard():
            while not self._is_over():
                self._steps()
                self._close_epoch()
        history = self.progress.history
        if best := next((row for row in history if row["epoch"] == self.progress.best[1]), None):
            self.logger.say(
                f"best: epoch {best['epoch']}, AP {figure(best['AP'])}, AP50 {figure(best['AP50'])} → {self.folder.best}"
            )
        if self.processes.is_main:
            self._report()
        if self.stop.asked:  # during the last evaluation
            raise KeyboardInterrupt
        return Run(self.folder.path, history)

    def _report(self) -> None:
        """A fault of the report, as an image that has gone, is said and costs the run nothing."""
        file = self.folder.path / REPORT
        if not file.is_file():
            self.logger.say("evaluating the best epoch once more, for the report")
            facts = run_facts(self.config, self.model, self.indices, self.progress)
            try:
                finalize_run(self.folder, self.config, facts, self.progress)
            except ConditionalDETRError as error:
                self.logger.say(f"no report: {error}")
                return
        self.logger.say(f"report: {file}")

    def _is_over(self) -> bool:
        progress, patience = self.progress, self.recipe.patience
        out_of_patience = bool(patience and progress.best[1]) and progress.epoch - progress.best[1] >= patience
        has_grown = size_factor(self.plan.share_done(progress), self.recipe) == 1
        return self.plan.share_done(progress) >= 1 or (out_of_patience and has_grown)

    def _steps(self) -> None:
        """The steps that are left of an epoch."""
        progress, batches = self.progress, self.batches
        batches.epoch, batches.position = progress.epoch, progress.position
        started, before = time.monotonic(), progress.seconds
        if progress.position == len(batches):  # stopped before it was evaluated
            return
        for images, padding_mask, targets in training_batches(self.images, batches, self.config.workers, self._leave_out):
            if progress.epoch == progress.position == 0 and self.processes.is_main:
                file = self.folder.path / "train_batch.jpg"
                save_batch_preview(images, padding_mask, targets, self.model.preprocessor, self.model.class_names, file)
            self._set_rate()
            images, padding_mask, targets = self.step.on_device(images, padding_mask, targets)
            factor = size_factor(self.plan.share_done(progress), self.recipe)
            images, padding_mask = resized(images, padding_mask, factor, self.model.preprocessor.size_multiple)
            seed_generators(self._seed_of_step(), self.processes.device)
            own = self.step(images, padding_mask, targets)
            losses = self.processes.mean({**own, "spent": time.monotonic() - self.started})
            progress.spent = losses.pop("spent")  # the same in all processes, so all end with the same step
            if not math.isfinite(losses["gradient_norm"]):
                self._record((images, padding_mask, targets), {key: float(value) for key, value in own.items()})
            elif self.average is not None:
                self.average.update_parameters(self.model)
            progress.count(losses)
            progress.seconds = before + time.monotonic() - started
            self.logger.step(progress, losses["loss"])
            if progress.skipped_in_a_row >= MOST_SKIPPED:
                raise RunError(
                    f"{MOST_SKIPPED} steps in a row had no finite gradient (epoch {progress.epoch + 1}, the last loss was "
                    f"{losses['loss']}). `cdetr replay {self.folder.path / FLIGHT}/STEP` takes a recorded one again and tells "
                    "where; if it is the learning rate, begin in another folder with a lower --lr"
                )
            self._stop_if_asked()
            if self.plan.is_out_of_time(progress):
                return

    def _record(self, batch: Batch, losses: dict[str, float]) -> None:
        """A fault of the disk does not end a run that only wanted to leave a record."""
        progress = self.progress
        place = {"epoch": progress.epoch + 1, "step": progress.position + 1, "rank": self.processes.rank}
        facts = place | {"seed": self._seed_of_step(), "amp": self.step.amp, "losses": losses}
        name = "-".join(f"{key}-{value}" for key, value in place.items())
        try:
            left = dump_step(self.folder.path, name, self.step, self.model, batch, facts)
        except ConditionalDETRError as error:
            self.logger.say(f"no record: {error}")
            return
        if left is not None:
            self.logger.say(f"a step had no finite gradient and moved no weight: cdetr replay {left}")

    def _leave_out(self, each: Unusable) -> None:
        index = self.images.index
        self.bad_images.add("train", index.paths[each.position], each.reason, len(index))

    def _seed_of_step(self) -> int:
        """Dropout of a step depends on the run's seed and the step's place only, so a resumed run draws the same."""
        step = self.progress.epoch * len(self.batches) + self.progress.position
        return ((self.config.seed << 32) + step) * self.processes.world + self.processes.rank & 0x7FFF_FFFF_FFFF_FFFF

    def _set_rate(self) -> None:
        factor = self._rate_factor(self.progress.position)
        for group in self.step.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def _rate_factor(self, position: int) -> float:
        """Of the learning rates at a step of the epoch under way."""
        done = self.progress.epoch * len(self.batches) + position
        return lr_factor(done, self.plan.share_done(replace(self.progress, position=position)), self.recipe)

    def _close_epoch(self) -> None:
        """Evaluate, keep the best, save. A stop that is asked for meanwhile waits for the end of it."""
        progress = self.progress
        self._save_last()  # a fault of the validation images must not cost the epoch
        for path, reason in self.processes.gathered(self.bad_images.met("train")):  # by any of the processes
            self.bad_images.add("train", path, reason, len(self.images.index))
        judged = self.plan.has_time_to_evaluate(progress)
        figures = dict.fromkeys(FIGURES) if not judged else self._figures()
        rate = self.recipe.lr * self._rate_factor(progress.position - 1)  # of the last step
        is_best = progress.close_epoch(figures, rate, judged)
        if is_best and self.processes.is_main:
            self.folder.save_best(self.judged)
        self._save_last()
        self.logger.epoch(progress.history[-1], is_best, judged)
        if not self._is_over():
            self._stop_if_asked()

    @property
    def judged(self) -> DetectionModel:
        """The model that is evaluated and kept."""
        return self.model if self.average is None else cast(DetectionModel, self.average.module)

    def _figures(self) -> dict[str, float | None]:
        """Of the validation split, and the seconds that they cost."""
        self.logger.evaluating()
        started, progress = time.monotonic(), self.progress
        metrics = self._evaluate()
        seconds = self.processes.mean({"": time.monotonic() - started})[""]
        progress.evaluations = progress.evaluations[0] + seconds, seconds
        progress.seconds += seconds
        return {name: getattr(metrics, name) for name in FIGURES}

    def _evaluate(self) -> CocoMetrics:
        """Each process detects in its share of the images; all judge all of them."""
        self.judged.eval()
        share = slice(self.processes.rank, None, self.processes.world)
        results, skipped = detections_of(self.judged, self.valid, self.recipe.batch, share)
        skipped = dict(self.processes.gathered(list(skipped.items())))
        for place, reason in sorted(skipped.items()):
            self.bad_images.add("valid", self.valid.paths[place], reason, len(self.indices[1]))
        self.valid = self.valid.without(skipped)
        return coco_metrics(self.valid.ground_truth(), self.processes.gathered(results))

    def _save_last(self) -> None:
        if self.processes.is_main:
            self.progress.grad_accum_steps = self.step.grad_accum_steps
            self.folder.save_last(self.model, self.beside, self.step.optimizer, self.progress)
        self.processes.wait()

    def _stop_if_asked(self) -> None:
        if self.processes.any(self.stop.asked):
            self._save_last()
            progress = self.progress
            self.logger.say(
                f"stopped in epoch {progress.epoch + 1} after step {progress.position}: saved, --resume goes on from here"
            )
            raise KeyboardInterrupt
