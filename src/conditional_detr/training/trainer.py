"""Training in three stages: prepare (everything that can fail early), fit (the training loop) and finalize (the report)."""

import math
import shlex
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from conditional_detr.config.options import documented, python_signature
from conditional_detr.data.loader import Batch, Unusable, training_batches
from conditional_detr.data.loader_processes import lost_process_named
from conditional_detr.device.seeding import seed_generators
from conditional_detr.errors import ConditionalDETRError, RunError
from conditional_detr.evaluation.coco import FIGURES, CocoMetrics
from conditional_detr.factory.build import DetectionModel
from conditional_detr.storage.run_files import REPORT
from conditional_detr.training.artifacts.batch_preview import save_batch_preview
from conditional_detr.training.artifacts.console_logger import figure
from conditional_detr.training.artifacts.finalize import run_facts
from conditional_detr.training.artifacts.nonfinite_dump import FOLDER as FLIGHT
from conditional_detr.training.artifacts.nonfinite_dump import dump_step
from conditional_detr.training.artifacts.trackers import Trackers
from conditional_detr.training.execution.interrupts import StopRequest
from conditional_detr.training.execution.micro_batches import on_device
from conditional_detr.training.execution.starting_process import refuse_in_starting_process
from conditional_detr.training.optim.optimizer import lr_factor
from conditional_detr.training.optim.progressive_resize import resized, size_factor
from conditional_detr.training.prepare import Prepared, extra_modules, prepared_run
from conditional_detr.training.setup.bad_images import BadImages
from conditional_detr.training.setup.resolve import requested

STOP_PATIENCE_SECONDS = 10.0  # one of several processes waits so long for a batch after it was asked to stop
MOST_SKIPPED = 20  # a run stops after this number of consecutive steps without a finite gradient


@dataclass(frozen=True)
class Run:
    """Result of `train`: the run folder, and one row of metrics per epoch as in `metrics.jsonl`."""

    folder: Path
    metrics: list[dict[str, Any]]


def train(data: str | Path, model: str | Path | None = None, output: str | Path | None = None, **options: Any) -> Run:
    """Train a detector on a data set with the splits `train` and `valid`.

    Parameters
    ----------
    {options}

    Returns
    -------
    Run

    Raises
    ------
    ConfigError, DataError, SourceError, UnavailableError, RunError
    KeyboardInterrupt : after Ctrl-C or SIGTERM, once `last/` is saved
    """
    refuse_in_starting_process()
    with prepared_run(requested({"data": data, "model": model, "output": output, **options})) as prepared:
        return Trainer(prepared).fit()


train.__doc__ = documented(train.__doc__ or "")
train.__signature__ = python_signature().replace(return_annotation=Run)  # type: ignore[attr-defined]


class Trainer:
    """The training loop. After each epoch the model is evaluated and saved.

    Parameters
    ----------
    prepared : the prepared run
    evaluate : (model, index of the validation images, batch size, processes) → metrics, and the images that cannot be used;
        None = that of the task
    finalize : writes the report; takes (folder, settings, facts, state, validation images); None = that of the task
    dump : records a step without a finite gradient; same signature as `dump_step`
    """

    def __init__(
        self,
        prepared: Prepared,
        evaluate: Callable[..., tuple[CocoMetrics, dict[int, str]]] | None = None,
        finalize: Callable[..., None] | None = None,
        dump: Callable[..., Path | None] = dump_step,
    ) -> None:
        self.prepared, self.task, self.dump = prepared, prepared.task, dump
        self.evaluate, self.finalize = evaluate or self.task.evaluate, finalize or self.task.finalize
        self.config, self.recipe = prepared.config, prepared.config.training
        self.folder, self.processes, self.logger = prepared.folder, prepared.processes, prepared.logger
        self.model, self.state, self.schedule = prepared.learning.model, prepared.state, prepared.schedule
        self.valid = prepared.valid
        missing = {"train": len(prepared.train.missing), "valid": len(prepared.valid.missing)}
        self.bad_images = BadImages(self.config.strict, self.config.max_bad, self.logger.say, missing, self.task.advice)
        self.stop = StopRequest()
        self.trackers = Trackers(self.folder.path, self.config, self.logger.say)

    def fit(self) -> Run:
        """Train until the run is complete, then write its report.

        Raises
        ------
        DataError : too many images cannot be used
        RunError : too many consecutive steps had no finite gradient, or there is not enough memory
        KeyboardInterrupt : after Ctrl-C or SIGTERM, once `last/` is saved
        """
        self.processes.wait()  # no process may write to the folder before all have checked it
        if self.processes.is_main and not self.schedule.is_over(self.state):
            self.folder.create(self.config, self.prepared.fingerprint)
        for line in self.prepared.notes:
            self.logger.say(line, "yellow" if line.lstrip().startswith("warning") else None)
        with self.logger, self.stop.listening(), self.trackers if self.processes.is_main else nullcontext():
            while not self.schedule.is_over(self.state):
                with lost_process_named():
                    self._epoch()
                self._close_epoch()
        if best := next((row for row in self.state.history if row["epoch"] == self.state.best[1]), None):
            figures = f"AP {figure(best['AP'])}, AP50 {figure(best['AP50'])}"
            self.logger.say(f"best: epoch {best['epoch']}, {figures} → {self.folder.best}", "bold")
            if best is self.state.history[-1] and len(self.state.history) > 1:
                self.logger.say("The last epoch is the best: a longer run would probably reach a higher AP.")
        if self.processes.is_main:
            self._report()
        if self.stop.requested:  # the request came during the last evaluation
            raise KeyboardInterrupt
        return Run(self.folder.path, self.state.history)

    @property
    def evaluated_model(self) -> DetectionModel:
        """The model that is evaluated and saved as the best: the averaged one if the recipe averages weights."""
        average = self.prepared.average
        return self.model if average is None else cast(DetectionModel, average.module)

    def _epoch(self) -> None:
        """Run the remaining steps of the current epoch."""
        state, batches = self.state, self.prepared.batches
        batches.epoch, batches.position = state.epoch, state.position
        if state.position == len(batches):  # the run was stopped after the last step and before the evaluation
            return
        started, before = time.monotonic(), state.seconds
        loaded = training_batches(self.prepared.images, batches, self.config.workers, self._leave_out, self._while_waiting)
        for batch in loaded:
            if state.epoch == state.position == 0 and self.processes.is_main:
                self._preview(batch)
            losses = self._step(batch)
            state.count(losses)
            state.seconds = before + time.monotonic() - started
            self.logger.step(state, losses["loss"])
            self._stop_after_nonfinite_steps(losses["loss"])
            self._stop_if_asked()
            if self.schedule.is_out_of_time(state):
                return

    def _step(self, batch: Batch) -> dict[str, float]:
        """Perform one step at the current learning rate and image size. Returns the losses, averaged over processes."""
        step, share = self.prepared.step, self.schedule.progress_fraction(self.state)
        for group in step.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self._lr_factor(self.state.position)
        images, padding_mask, targets = on_device(batch, self.processes.device)
        factor = size_factor(share, self.recipe)
        images, padding_mask = resized(images, padding_mask, factor, self.model.preprocessor.size_multiple)
        seed_generators(self._seed_of_step(), self.processes.device)
        own = step(images, padding_mask, targets)
        losses = self.processes.mean({**own, "spent": time.monotonic() - self.prepared.started})
        self.state.spent = losses.pop("spent")  # averaged, so that all processes end after the same step
        if not math.isfinite(losses["gradient_norm"]):
            self._record((images, padding_mask, targets), {key: float(value) for key, value in own.items()})
        elif self.prepared.average is not None:
            self.prepared.average.update_parameters(self.model)
        return losses

    def _while_waiting(self, seconds: float) -> None:
        """No batch has come for some seconds: hear a request to stop. Several processes stop together, after a step."""
        if self.processes.world == 1:
            self._stop_if_asked()
        elif self.stop.requested and seconds > STOP_PATIENCE_SECONDS:
            raise RunError(
                f"stopped while waiting for a batch, {seconds:.0f} s after the last one. Continue from the last saved "
                "state with --resume"
            )

    def _close_epoch(self) -> None:
        """Evaluate, save the model if it is the best so far, and save the state. A stop request takes effect afterwards."""
        state = self.state
        self._save_last()  # an error in the validation images must not lose the epoch
        for path, reason in self.processes.gathered(self.bad_images.met("train")):  # found by any of the processes
            self.bad_images.add("train", path, reason, len(self.prepared.train))
        is_evaluated = self.schedule.has_time_to_evaluate(state)
        figures = self._figures() if is_evaluated else dict.fromkeys(FIGURES)
        rate = self.recipe.lr * self._lr_factor(state.position - 1)  # learning rate of the last step
        is_best = state.close_epoch(figures, rate, is_evaluated)
        if is_best and self.processes.is_main:
            self.folder.save_best(self.evaluated_model)
        self._save_last()
        self.logger.epoch(state.history[-1], is_best, is_evaluated)
        self.trackers.epoch(state.history[-1], lambda: self.task.samples(self.evaluated_model, self.valid))
        if not self.schedule.is_over(state):
            self._stop_if_asked()

    def _figures(self) -> dict[str, float | None]:
        """Evaluate on the validation split and return the metrics. The time this takes is added to the state."""
        self.logger.evaluating()
        started, state = time.monotonic(), self.state
        metrics, skipped = self.evaluate(self.evaluated_model, self.valid, self.recipe.batch, self.processes)
        for position, reason in sorted(skipped.items()):
            self.bad_images.add("valid", self.valid.paths[position], reason, len(self.prepared.valid))
        self.valid = self.valid.without(skipped)
        seconds = self.processes.mean({"": time.monotonic() - started})[""]
        state.evaluations = state.evaluations[0] + seconds, seconds
        state.seconds += seconds
        return {name: getattr(metrics, name) for name in FIGURES}

    def _report(self) -> None:
        """Write the report. An error here, such as a deleted image, is printed but does not fail the run."""
        file, indices = self.folder.path / REPORT, (self.prepared.train, self.prepared.valid)
        if not file.is_file():
            self.logger.say("evaluating the best epoch again for the report")
            facts = run_facts(self.config, self.model, indices, self.state)
            try:
                self.finalize(self.folder, self.config, facts, self.state, self.valid)
            except ConditionalDETRError as error:
                self.logger.say(f"no report written (training itself is complete): {error}")
                return
        self.logger.say(f"report: {file}")
        purpose, command = self.task.next_step(self.folder.path)
        self.logger.say(f"To {purpose}: {shlex.join(map(str, command))}", "bold")

    def _record(self, batch: Batch, losses: dict[str, float]) -> None:
        """Record a step without a finite gradient. If that cannot be written, the run continues without the record."""
        position = {"epoch": self.state.epoch + 1, "step": self.state.position + 1, "rank": self.processes.rank}
        parts = self.prepared.step.grad_accum_steps
        recipe = self.recipe.model_dump(mode="json") | {"grad_accum_steps": parts}
        facts = position | {"seed": self._seed_of_step(), "amp": self.prepared.step.amp, "losses": losses, "recipe": recipe}
        name = "-".join(f"{key}-{value}" for key, value in position.items())
        try:
            left = self.dump(self.folder.path, name, self.prepared.learning, batch, facts)
        except ConditionalDETRError as error:
            self.logger.say(f"a step without a finite gradient was skipped but could not be recorded: {error}")
            return
        if left is not None:
            self.logger.say(f"skipped a step without a finite gradient, weights unchanged. Find the cause: cdetr replay {left}")

    def _preview(self, batch: Batch) -> None:
        file = self.folder.path / "train_batch.jpg"
        save_batch_preview(*batch, self.model.preprocessor, self.model.class_names, file)

    def _leave_out(self, each: Unusable) -> None:
        index = self.prepared.train
        self.bad_images.add("train", index.paths[each.position], each.reason, len(index))

    def _seed_of_step(self) -> int:
        """Seed of the current step, so that a resumed run draws the same dropout masks.

        It depends only on the run's seed, the number of the step, and the rank and number of processes.
        """
        step = self.state.epoch * len(self.prepared.batches) + self.state.position
        return ((self.config.seed << 32) + step) * self.processes.world + self.processes.rank & 0x7FFF_FFFF_FFFF_FFFF

    def _lr_factor(self, position: int) -> float:
        """Learning rate factor at a step of the current epoch."""
        step = self.state.epoch * len(self.prepared.batches) + position
        return lr_factor(step, self.schedule.progress_fraction(replace(self.state, position=position)), self.recipe)

    def _save_last(self) -> None:
        if self.processes.is_main:
            learning, state = self.prepared.learning, self.state
            state.grad_accum_steps = self.prepared.step.grad_accum_steps
            beside = extra_modules(learning, self.prepared.average)
            self.folder.save_last(learning.model, beside, learning.optimizer, state)
        self.processes.wait()

    def _stop_after_nonfinite_steps(self, loss: float) -> None:
        if self.state.skipped_in_a_row >= MOST_SKIPPED:
            raise RunError(
                f"{MOST_SKIPPED} steps in a row had no finite gradient (epoch {self.state.epoch + 1}, the last loss was "
                f"{loss}). `cdetr replay {self.folder.path / FLIGHT}/STEP` repeats a recorded step and shows where it failed. "
                "If the learning rate is too high, start a new run in another folder with a lower --lr"
            )

    def _stop_if_asked(self) -> None:
        if self.processes.any(self.stop.requested):
            self._save_last()
            self.logger.say(
                f"stopped in epoch {self.state.epoch + 1} after step {self.state.position}, and saved. To continue: "
                + shlex.join(["cdetr", self.task.command, "--resume", "--output", str(self.folder.path)])
            )
            raise KeyboardInterrupt
