"""Record steps without a finite gradient, with everything that is needed to repeat them."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conditional_detr.config.messages import build
from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.data.loader import Batch
from conditional_detr.device.choose import choose_device
from conditional_detr.device.seeding import seed_generators
from conditional_detr.errors import RunError
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.storage.json import read_json_object
from conditional_detr.training.artifacts.batch_preview import save_batch_preview
from conditional_detr.training.objective.objective import Objective
from conditional_detr.training.train_step import Trainable, build_step, trainable
from conditional_detr.weights import native

FOLDER, MOST = "flight", 3  # MOST: number of records per run; the first ones show the cause, more would fill the disk
BATCH, AUXILIARIES, RECORD = "batch.safetensors", "auxiliaries.safetensors", "record.json"


def dump_step(folder: Path, name: str, learning: Trainable, batch: Batch, facts: dict[str, Any]) -> Path | None:
    """Write a folder with the batch, its images, the weights, their norms and facts about the step.

    Parameters
    ----------
    folder : the run folder
    name : name of the record
    learning : model, auxiliary modules and optimiser after the step, which did not change any weight
    batch : the batch of the step
    facts : "epoch", "step", "rank", "seed", "amp", "losses" and "recipe"

    Returns
    -------
    the new folder; None if the run already has enough records

    Raises
    ------
    CheckpointError : the folder cannot be written
    """
    records, model = folder / FOLDER, learning.model
    if records.is_dir() and len(list(records.iterdir())) >= MOST:
        return None
    images, padding_mask, targets = batch
    tensors = {"images": images} | ({} if padding_mask is None else {"padding_mask": padding_mask})
    for i, target in enumerate(targets):
        tensors |= {f"{key}.{i}": value for key, value in target.items()}
    norms = {key: float(parameter.detach().float().norm()) for key, parameter in model.named_parameters()}
    with atomic_folder(records / name) as new:
        native.write(model, new)
        save_file(
            {key: value.contiguous().clone() for key, value in tensors.items()}, new / BATCH
        )  # an image may be there twice
        if len(learning.auxiliaries):
            save_file(learning.auxiliaries.state_dict(), new / AUXILIARIES)
        (new / RECORD).write_text(json.dumps(facts | {"weight_norms": norms}, indent=1), encoding="utf-8")
        if torch.isfinite(images).all():
            save_batch_preview(images, padding_mask, targets, model.preprocessor, model.class_names, new / "images.jpg")
    return records / name


@dataclass(frozen=True)
class Replay:
    """Result of repeating a recorded step.

    Attributes
    ----------
    losses : the loss, its terms and "gradient_norm"
    module : first module whose output was not finite; None if all outputs were finite
    parameters : names of the parameters whose gradient was not finite
    largest_norms : names and norms of the three weights with the largest norms, largest first
    """

    losses: dict[str, float]
    module: str | None
    parameters: list[str]
    largest_norms: list[tuple[str, float]]


def replay(
    folder: str | Path, device: str = "auto", objective: Callable[[ModelConfig], type[Objective]] = lambda model: Objective
) -> Replay:
    """Repeat a recorded step with the same weights, batch and seed.

    Parameters
    ----------
    folder : the recorded step
    device : "auto", "cpu", "cuda", …
    objective : gives the objective of a model

    Raises
    ------
    RunError : the folder is not a record, or it is damaged
    """
    record, where = Path(folder), choose_device(device)
    if not (record / RECORD).is_file():
        raise RunError(f"{record} is not a recorded step: a run saves them in its folder {FOLDER}/")
    content = read_json_object(record / RECORD, RunError)
    try:
        model = native.read(record).build().to(where)
        recipe = build(RecipeConfig, content["recipe"], str(record / RECORD))
        learning = trainable(model, recipe)
        if len(learning.auxiliaries):
            learning.auxiliaries.load_state_dict(load_file(record / AUXILIARIES))
        batch = _batch(load_file(record / BATCH))
        seed, amp, norms = int(content["seed"]), str(content["amp"]), dict(content["weight_norms"])
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{record} is damaged: {str(error)[:200]}") from None
    step = build_step(learning, recipe, amp, kind=objective(model.config))
    broken: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(_watcher(name, broken))
    seed_generators(seed, where)
    losses = {key: float(value) for key, value in step(*batch).items()}
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    largest = sorted(norms.items(), key=lambda item: -_key(item[1]))[:3]
    return Replay(losses, broken[0] if broken else None, bad, largest)


def _key(norm: float) -> float:
    return norm if math.isfinite(norm) else math.inf


def _batch(tensors: dict[str, Tensor]) -> Batch:
    images = tensors["images"]
    keys = [name.removesuffix(".0") for name in tensors if name.endswith(".0")]
    targets = [{key: tensors[f"{key}.{i}"] for key in keys} for i in range(len(images))]
    return images, tensors.get("padding_mask"), targets


def _watcher(name: str, broken: list[str]) -> Any:
    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all():
            broken.append(name)

    return watch
