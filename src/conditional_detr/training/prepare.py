"""Everything of a training run that can fail before its first step. Nothing is written here."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from conditional_detr.config.options import TrainOptions
from conditional_detr.config.run import RunConfig
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.index import SplitIndex, load_split
from conditional_detr.data.loader import EpochBatches, TrainingImages
from conditional_detr.device.threads import set_threads
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.training.artifacts.console_logger import ConsoleLogger
from conditional_detr.training.artifacts.run_folder import RunFolder
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.execution.distributed import Distributed, launched
from conditional_detr.training.optim.run_schedule import RunSchedule
from conditional_detr.training.optim.weight_average import averaged
from conditional_detr.training.setup.auto_config import resolve_auto
from conditional_detr.training.setup.data_checks import check_data, opening
from conditional_detr.training.setup.initial_weights import build_model, check_classes
from conditional_detr.training.setup.resolve import asked_for, cores_of_process, resolve
from conditional_detr.training.train_step import Trainable, TrainStep, autocast_dtype, build_step, trainable


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to begin, or to go on.

    Attributes
    ----------
    config : all settings, with what the data decided
    folder : the run folder
    processes : this process among those that train together
    train, valid : the images
    learning : model, auxiliary modules and optimizer
    average : of the weights, where the recipe has one
    step : one optimisation step
    state : where the run is
    batches, images : what its steps see
    schedule : how it spends its epochs or its minutes
    logger : what it says
    notes : the lines that it begins with
    started : `time.monotonic()` at which it would have begun without a stop
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
    schedule: RunSchedule
    logger: ConsoleLogger
    notes: list[str]
    started: float


@contextmanager
def prepared_run(options: TrainOptions) -> Iterator[Prepared]:
    """Within it a run is ready: no other process writes into its folder, and its own processes are joined."""
    started = time.monotonic()
    config = resolve(options)
    set_threads(config.threads or cores_of_process())
    lock = nullcontext() if launched("rank") else RunFolder(config.output).held()
    with lock, Distributed(config.device) as processes:
        yield prepare(config, options, processes, started)


def prepare(config: RunConfig, options: TrainOptions, processes: Distributed, started: float) -> Prepared:
    """Data, settings, model and optimiser of a run, as it begins or as it was saved last.

    Raises
    ------
    ConfigError, DataError, SourceError, CheckpointError, UnavailableError, RunError
    """
    train, valid = load_split(config.data, "train"), load_split(config.data, "valid")
    check_data(train, valid, config.strict, config.max_bad)
    folder = RunFolder(config.output)
    saved = folder.config() if options.resume and folder.has_begun else None
    # All processes go by the first one's choices.
    config, choices = processes.gathered([resolve_auto(config, asked_for(options), train, saved)])[0]
    begun, recipe = folder.check(config, options.resume), config.training
    torch.manual_seed(config.seed)
    model, notes = (folder.last_model(), []) if begun else build_model(config, train)
    if begun:
        check_classes(model, train)
    model.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learning = trainable(model, recipe)
    average = averaged(model, recipe.weight_average) if recipe.weight_average else None
    state = folder.load_last(saved_beside(learning, average), learning.optimizer) if begun else TrainerState()
    batches = EpochBatches(len(train), recipe.batch, config.seed, processes.rank, processes.world)
    schedule = RunSchedule(recipe, len(batches), len(valid))
    logger = ConsoleLogger(schedule, recipe.batch, options.quiet or not processes.is_main)
    amp = "off" if processes.any(autocast_dtype(config.amp, processes.device) is None) else "bf16"
    step = build_step(learning, recipe, amp, processes.accelerator, logger.say)
    step.grad_accum_steps = max(recipe.grad_accum_steps, state.grad_accum_steps)
    where = f"{processes.device.type}, {'float32' if amp == 'off' else 'bfloat16'}"
    notes = notes + opening(train, valid, model, config, where) + choices
    if options.resume:
        notes.append(_resume_note(folder, state, schedule, begun))
    return Prepared(
        config=config, folder=folder, processes=processes, train=train, valid=valid, learning=learning, average=average,
        step=step, state=state, batches=batches,
        images=TrainingImages(train, Augmentation(recipe, config.imgsz), Preprocessor(model.preprocessor)),
        schedule=schedule, logger=logger, notes=notes, started=started - state.spent,
    )  # fmt: skip


def saved_beside(learning: Trainable, average: AveragedModel | None) -> dict[str, nn.Module]:
    """What is saved beside the model, by names of its own."""
    return {"auxiliary": learning.auxiliaries} | ({} if average is None else {"average": average})


def _resume_note(folder: RunFolder, state: TrainerState, schedule: RunSchedule, begun: bool) -> str:
    if not begun:
        return f"{folder.path} holds no run yet: starting"
    if schedule.is_over(state):
        return f"{folder.path} is finished: {state.epoch} epochs"
    return f"going on after epoch {state.epoch}, step {state.position}"
