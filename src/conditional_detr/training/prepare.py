"""Prepare a training run: everything that can fail before the first optimisation step. No files of the run are written."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from conditional_detr.config.options import TrainOptions
from conditional_detr.config.presets import PRESETS
from conditional_detr.config.run import RunConfig
from conditional_detr.data.index import SplitIndex
from conditional_detr.data.loader import EpochBatches, TrainingImages
from conditional_detr.data.loader_processes import lacking_for_processes
from conditional_detr.data.repeat_sampling import repeat_factors
from conditional_detr.device.allocator import freed_memory_kept
from conditional_detr.device.threads import set_threads
from conditional_detr.inference.tiles import number_of_windows, tiling_of
from conditional_detr.training.artifacts.console_logger import ConsoleLogger
from conditional_detr.training.artifacts.fingerprint import fingerprint
from conditional_detr.training.artifacts.run_folder import RunFolder
from conditional_detr.training.artifacts.trackers import check_trackers
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.execution.distributed import Distributed, launched
from conditional_detr.training.optim.run_schedule import RunSchedule
from conditional_detr.training.optim.weight_average import averaged
from conditional_detr.training.setup.resolve import cores_of_process, resolve, user_settings
from conditional_detr.training.task import Detection
from conditional_detr.training.train_step import Trainable, TrainStep, autocast_dtype, build_step, trainable

DETECTION = Detection()


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start or to resume.

    Attributes
    ----------
    config : all settings, including those chosen from the data
    folder : the run folder
    processes : rank and communication of this process, for training with several processes
    train, valid : index of the training and of the validation split
    learning : model, auxiliary modules and optimizer
    average : moving average of the weights, or None if the recipe has none
    step : performs one optimisation step
    state : progress of the run
    task : what the run learns
    batches, images : batches of image indices, and the data set that loads the images
    schedule : decides when the run ends and which epochs are evaluated
    logger : prints the progress
    notes : lines to print at the start
    fingerprint : hashes of data and settings
    started : `time.monotonic()` at the start of the run; after a resume, moved back by the time already spent
    """

    config: RunConfig
    folder: RunFolder
    processes: Distributed
    train: SplitIndex
    valid: SplitIndex
    learning: Trainable
    average: AveragedModel | None
    step: TrainStep
    state: TrainerState
    batches: EpochBatches
    images: TrainingImages
    task: Detection
    schedule: RunSchedule
    logger: ConsoleLogger
    notes: list[str]
    fingerprint: dict[str, Any]
    started: float


@contextmanager
def prepared_run(options: TrainOptions, task: Detection = DETECTION) -> Iterator[Prepared]:
    """Context manager that prepares a run. It locks the run folder and connects the processes of a distributed run."""
    started = time.monotonic()
    config = resolve(options, task.command)
    check_trackers(config.log)
    set_threads(config.threads or cores_of_process())
    lock = nullcontext() if launched("rank") else RunFolder(config.output).held()
    with lock, freed_memory_kept(), Distributed(config.device) as processes:
        yield prepare(config, options, processes, started, task)


def prepare(
    config: RunConfig, options: TrainOptions, processes: Distributed, started: float, task: Detection = DETECTION
) -> Prepared:
    """Load data, settings, model and optimiser, either for a new run or from the last saved state.

    Raises
    ------
    ConfigError, DataError, SourceError, CheckpointError, UnavailableError, RunError
    """
    train, valid = task.splits(config)
    folder = RunFolder(config.output)
    saved = folder.config() if options.resume and folder.has_begun else None
    if saved is not None and "amp" not in user_settings(options):  # as it was measured when the run started
        config = config.model_copy(update={"amp": saved.amp})
    # All processes use the choices of the first one.
    config, choices = processes.gathered([task.choose(config, user_settings(options), train, saved)])[0]
    begun, recipe = folder.check(config, options.resume), config.training
    torch.manual_seed(config.seed)
    model, notes = (folder.last_model(), []) if begun else task.model(config, train)
    if begun:
        task.check(model, train)
    model.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learning = trainable(model, recipe, is_trained=bool(recipe.init_from) or config.model not in PRESETS)
    average = averaged(model, recipe.weight_average) if recipe.weight_average else None
    state = folder.load_last(extra_modules(learning, average), learning.optimizer) if begun else TrainerState()
    factors = repeat_factors(train, recipe.repeat_threshold) if recipe.repeat_threshold else None
    batches = EpochBatches(len(train), recipe.batch, config.seed, processes.rank, processes.world, factors)
    schedule = RunSchedule(recipe, len(batches), number_of_windows(valid.sizes_hw.tolist(), tiling_of(model.preprocessor)))
    logger = ConsoleLogger(schedule, recipe.batch, options.quiet or not processes.is_main)
    amp = "off" if processes.any(autocast_dtype(config.amp, processes.device) is None) else "bf16"
    step = build_step(learning, recipe, amp, processes.accelerator, logger.say, task.objective)
    step.grad_accum_steps = max(recipe.grad_accum_steps, state.grad_accum_steps)
    config = config.model_copy(update={"amp": amp, "threads": config.threads or cores_of_process()})
    where = f"{processes.device.type}, {'float32' if amp == 'off' else 'bfloat16'}"
    notes = task.opening(train, valid, model, config, where) + notes
    if config.workers and (lacking := lacking_for_processes()):
        config = config.model_copy(update={"workers": 0})
        notes.append(f"warning: no processes that load images can be started here ({lacking}): this process loads them itself")
    mark = fingerprint(config, train, valid)
    if begun and folder.fingerprint().get("data") not in (None, mark["data"]):
        notes.append("warning: the data set has changed since the run started. Metrics before and after cannot be compared")
    if choices:
        notes += ["chosen by the recipe and from the data (--set changes them):", *(f"  {choice}" for choice in choices)]
    if options.resume:
        notes.append(_resume_note(folder, state, schedule, begun))
    return Prepared(
        config=config, folder=folder, processes=processes, train=train, valid=valid, learning=learning, average=average,
        step=step, state=state, batches=batches,
        images=task.images(train, model, config), task=task,
        schedule=schedule, logger=logger, notes=notes, fingerprint=mark, started=started - state.spent,
    )  # fmt: skip


def extra_modules(learning: Trainable, average: AveragedModel | None) -> dict[str, nn.Module]:
    """Modules whose weights are saved in addition to the model, each under its own name."""
    return {"auxiliary": learning.auxiliaries} | ({} if average is None else {"average": average})


def _resume_note(folder: RunFolder, state: TrainerState, schedule: RunSchedule, begun: bool) -> str:
    if not begun:
        return f"{folder.path} contains no run to resume: starting a new run"
    if schedule.is_over(state):
        option = "--minutes" if schedule.time_limited else "--epochs"
        return (
            f"{folder.path} is finished: {state.epoch} epochs. To continue it, give a larger {option}, which counts from the "
            "start of the run (unless --patience ended it)"
        )
    return f"resuming in epoch {state.epoch + 1}, after step {state.position} of {schedule.steps}"
