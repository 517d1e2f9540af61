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
from conditional_detr.factory.build import DetectionModel
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.storage.json import read_json_object
from conditional_detr.training.artifacts.batch_preview import save_batch_preview
from conditional_detr.training.optim.optimizer import build_optimizer
from conditional_detr.training.optim.query_groups import auxiliary_modules
from conditional_detr.training.train_step import TrainStep, build_criterion
from conditional_detr.weights import native

FOLDER, MOST = "flight", 3  # records a run: the first ones tell, the others fill the disk
BATCH, HELPERS, RECORD = "batch.safetensors", "helpers.safetensors", "record.json"


def dump_step(
    folder: Path, name: str, step: TrainStep, model: DetectionModel, batch: Batch, facts: dict[str, Any]
) -> Path | None:
    """Leave a folder with the batch, its images, the weights, their norms, and the facts; None where there are enough.

    Parameters
    ----------
    folder : the run folder
    name : of the record
    step, model : after the step, which moved no weight
    batch : what it saw
    facts : "epoch", "step", "seed", "amp" and "losses"

    Raises
    ------
    CheckpointError : it cannot be written
    """
    place = folder / FOLDER
    if place.is_dir() and len(list(place.iterdir())) >= MOST:
        return None
    images, padding_mask, targets = batch
    tensors = {"images": images} | ({} if padding_mask is None else {"padding_mask": padding_mask})
    for i, target in enumerate(targets):
        tensors |= {f"{key}.{i}": value for key, value in target.items()}
    norms = {key: float(parameter.detach().float().norm()) for key, parameter in model.named_parameters()}
    with atomic_folder(place / name) as new:
        native.write(model, new)
        save_file({key: value.contiguous() for key, value in tensors.items()}, new / BATCH)
        if len(step.helpers):
            save_file(step.helpers.state_dict(), new / HELPERS)
        recipe = step.recipe.model_dump(mode="json") | {"grad_accum_steps": step.grad_accum_steps}
        content = facts | {"recipe": recipe, "weight_norms": norms}
        (new / RECORD).write_text(json.dumps(content, indent=1), encoding="utf-8")
        if torch.isfinite(images).all():
            save_batch_preview(images, padding_mask, targets, model.preprocessor, model.class_names, new / "images.jpg")
    return place / name


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
    place, where = Path(folder), choose_device(device)
    if not (place / RECORD).is_file():
        raise RunError(f"{place} is no record of a step: a run leaves them in its folder {FOLDER}/")
    content = read_json_object(place / RECORD, RunError)
    try:
        model = native.read(place).build().to(where)
        recipe = build(RecipeConfig, content["recipe"], str(place / RECORD))
        helpers = auxiliary_modules(model, recipe)
        if len(helpers):
            helpers.load_state_dict(load_file(place / HELPERS))
        batch = _batch(load_file(place / BATCH))
        seed, amp, norms = int(content["seed"]), str(content["amp"]), dict(content["weight_norms"])
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{place} is damaged: {str(error)[:200]}") from None
    step = TrainStep(
        model, build_criterion(model, recipe), build_optimizer(model, recipe, helpers), recipe, amp, helpers=helpers
    )
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
    targets = [{key: tensors[f"{key}.{i}"] for key in ("labels", "boxes")} for i in range(len(images))]
    return images, tensors.get("padding_mask"), targets


def _watcher(name: str, broken: list[str]) -> Any:
    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all():
            broken.append(name)

    return watch
