"""The flight recorder: what a step saw that had no finite gradient, enough to take it again."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conditional_detr.config.messages import build
from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.data.loader import Batch
from conditional_detr.device.choose import choose_device
from conditional_detr.device.seeding import seed_generators
from conditional_detr.errors import RunError
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.storage.json import read_json_object
from conditional_detr.training.artifacts.batch_preview import save_batch_preview
from conditional_detr.training.train_step import Trainable, build_step, trainable
from conditional_detr.weights import native

FOLDER, MOST = "flight", 3  # records a run: the first ones tell, the others fill the disk
BATCH, AUXILIARIES, RECORD = "batch.safetensors", "auxiliaries.safetensors", "record.json"


def dump_step(folder: Path, name: str, learning: Trainable, batch: Batch, facts: dict[str, Any]) -> Path | None:
    """Leave a folder with the batch, its images, the weights, their norms, and the facts; None where there are enough.

    Parameters
    ----------
    folder : the run folder
    name : of the record
    learning : after the step, which moved no weight
    batch : that the step was taken with
    facts : "epoch", "step", "seed", "amp", "losses" and "recipe"

    Raises
    ------
    CheckpointError : it cannot be written
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
        save_file({key: value.contiguous() for key, value in tensors.items()}, new / BATCH)
        if len(learning.auxiliaries):
            save_file(learning.auxiliaries.state_dict(), new / AUXILIARIES)
        (new / RECORD).write_text(json.dumps(facts | {"weight_norms": norms}, indent=1), encoding="utf-8")
        if torch.isfinite(images).all():
            save_batch_preview(images, padding_mask, targets, model.preprocessor, model.class_names, new / "images.jpg")
    return records / name


@dataclass(frozen=True)
class Replay:
    """What a recorded step did when it was taken again.

    Attributes
    ----------
    losses : its terms and "gradient_norm"
    module : the first module whose output was not finite, if one was
    parameters : those whose gradient was not finite
    largest_norms : the weights with the largest norms, the largest first
    """

    losses: dict[str, float]
    module: str | None
    parameters: list[str]
    largest_norms: list[tuple[str, float]]


def replay(folder: str | Path, device: str = "auto") -> Replay:
    """Take a recorded step once more, with the same weights, batch and seed.

    Raises
    ------
    RunError : the folder is no record, or is damaged
    """
    record, where = Path(folder), choose_device(device)
    if not (record / RECORD).is_file():
        raise RunError(f"{record} is no record of a step: a run leaves them in its folder {FOLDER}/")
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
    step = build_step(learning, recipe, amp)
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
