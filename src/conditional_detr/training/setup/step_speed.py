"""Measure how long a training step takes before a run starts."""

import time
from typing import NamedTuple

import torch

from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.device.choose import choose_device
from conditional_detr.factory.build import DetectionModel, preprocessing_for
from conditional_detr.training.train_step import TrainStep, build_step, trainable

STEPS = 6  # per image size; the fastest counts, except for the first, which also prepares
ENOUGH_SECONDS = 5.0  # after this time there are fewer steps, but at least two


class StepSpeed(NamedTuple):
    """Time of a training step per image: seconds + seconds_per_pixel · pixels."""

    seconds: float
    seconds_per_pixel: float

    def at(self, pixels: float) -> float:
        """Seconds per image of this number of pixels."""
        return self.seconds + self.seconds_per_pixel * pixels


def measured_speed(config: RunConfig, architecture: ModelConfig, sides: tuple[int, int], objects: int) -> StepSpeed:
    """Time training steps on random square images of two sizes. The random state stays unchanged.

    On the CPU, time in which other programs run does not count: a burst at the start says nothing about the run.

    Parameters
    ----------
    config : settings of the run
    architecture : of its model
    sides : the two sizes, px
    objects : objects per image
    """
    device = choose_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DetectionModel(architecture, preprocessing_for(architecture, max(sides)))
        model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        recipe = config.training.model_copy(update={"class_loss": "model"})
        step = build_step(trainable(model, recipe), recipe, config.amp, say=lambda _: None)
        target = {
            "labels": torch.randint(architecture.num_classes, (objects,), device=device),
            "boxes": torch.rand(objects, 4, device=device) * 0.2 + 0.3,
        }
        low, high = (_seconds(step, side, recipe.batch, target) / recipe.batch for side in sides)
    slope = max(0.0, (high - low) / (sides[1] ** 2 - sides[0] ** 2))
    return StepSpeed(max(0.0, low - slope * sides[0] ** 2), slope)


def _seconds(step: TrainStep, side: int, batch: int, target: dict[str, torch.Tensor]) -> float:
    """Duration of the fastest step."""
    images = torch.randn(batch, 3, side, side, device=target["boxes"].device)
    clocks = (time.perf_counter, time.process_time) if images.device.type == "cpu" else (time.perf_counter,)
    times: list[float] = []
    while len(times) < STEPS and (len(times) < 2 or sum(times) < ENOUGH_SECONDS):
        starts = [clock() for clock in clocks]
        losses = step(images, None, [target] * batch)
        float(losses["loss"])  # waits for a GPU
        times.append(min(clock() - start for clock, start in zip(clocks, starts, strict=True)))
    return min(times[1:])
