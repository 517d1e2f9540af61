"""One optimisation step, used by `train` and by the benchmarks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, get_args

import torch
from torch import Tensor, nn

from conditional_detr.config.messages import updated
from conditional_detr.config.presets import recipe_for, recipe_of
from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.run import RunOptions
from conditional_detr.config.schema import ModelConfig
from conditional_detr.device.bf16 import has_fast_bf16
from conditional_detr.device.choose import is_out_of_memory
from conditional_detr.errors import ConfigError, RunError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.training.execution.micro_batches import NO_ROOM, MicroBatches
from conditional_detr.training.objective.objective import Objective, build_criterion, class_loss_fits
from conditional_detr.training.optim.optimizer import build_optimizer
from conditional_detr.training.optim.query_groups import auxiliary_modules

if TYPE_CHECKING:
    from accelerate import Accelerator

AMP_CHOICES = get_args(RunOptions.model_fields["amp"].annotation)


class TrainStep:
    """One optimisation step: compute gradients, clip them, update the weights.

    Parameters
    ----------
    gradients : computes the gradients of a batch
    optimizer : updates the parameters
    clip_max_norm : maximum gradient norm; larger gradients are clipped. 0 = no clipping
    """

    def __init__(self, gradients: MicroBatches, optimizer: torch.optim.Optimizer, clip_max_norm: float) -> None:
        self.gradients, self.optimizer, self.clip_max_norm = gradients, optimizer, clip_max_norm
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def __call__(self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Perform one step.

        Parameters
        ----------
        images : float32 [B, 3, H, W]
        padding_mask : bool [B, H, W], True = padding; or None
        targets : one dict per image, see `SetCriterion`

        Returns
        -------
        the losses of the batch before the update, detached, and "gradient_norm" before clipping. If the norm is not finite,
        the weights were not updated

        Raises
        ------
        RunError : memory is too small for a single image; or memory ran out in a run of several processes, where batches are
            not split further
        """
        threads = torch.get_num_threads()
        try:
            losses = self.gradients(images, padding_mask, targets)
            norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_max_norm or torch.inf)
            if torch.isfinite(norm):  # otherwise skip the update: one bad batch must not destroy the weights
                self._update()
            return losses | {"gradient_norm": norm}
        finally:
            torch.set_num_threads(threads)

    def _update(self) -> None:
        try:
            self.optimizer.step()
        except RuntimeError as error:  # some weights may already be updated, so the step cannot be repeated
            if not is_out_of_memory(error):
                raise
            raise RunError(NO_ROOM.format("the optimiser")) from None

    @property
    def grad_accum_steps(self) -> int:
        """Number of parts that a batch is split into. It increases if memory runs out."""
        return self.gradients.grad_accum_steps

    @grad_accum_steps.setter
    def grad_accum_steps(self, parts: int) -> None:
        self.gradients.grad_accum_steps = parts

    @property
    def amp(self) -> str:
        """Precision of matrix products: "bf16" or "off" (float32)."""
        return "off" if self.gradients.objective.dtype is None else "bf16"


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """Data type of matrix products under autocast; None = no autocast (float32).

    "bf16" gives bfloat16. "auto" gives bfloat16 if it is faster on the device.

    Raises
    ------
    ConfigError : `amp` is none of the known values
    """
    if amp not in AMP_CHOICES:
        raise ConfigError(f"amp must be one of {', '.join(AMP_CHOICES)}, not {amp!r}")
    if amp == "off" or (amp == "auto" and not has_fast_bf16(device)):
        return None
    return torch.bfloat16


class Trainable(NamedTuple):
    """Everything that is trained: the model, the auxiliary modules that only training uses, and the optimiser of both."""

    model: DetectionModel
    auxiliaries: nn.ModuleDict
    optimizer: torch.optim.Optimizer


def trainable(model: DetectionModel, recipe: RecipeConfig, is_trained: bool = False) -> Trainable:
    """Add the auxiliary modules of a recipe and an optimiser to a model. The model stays on its device.

    `is_trained` : whether the model has trained weights, not only those of its backbone
    """
    auxiliaries = auxiliary_modules(model, recipe, is_trained)
    return Trainable(model, auxiliaries, build_optimizer(model, recipe, auxiliaries))


def build_step(
    learning: Trainable,
    recipe: RecipeConfig,
    amp: str = "auto",
    accelerator: "Accelerator | None" = None,
    say: Callable[[str], object] = print,
    kind: type[Objective] = Objective,
) -> TrainStep:
    """Build the optimisation step of a run.

    Parameters
    ----------
    learning : model, auxiliary modules and optimiser
    recipe : training settings
    amp : "auto", "bf16" or "off"
    accelerator : connects several processes; None = a single process
    say : called with a message each time memory runs out and batches are split further
    kind : class of the objective

    Raises
    ------
    ConfigError : the recipe's class loss does not support the model's classification
    """
    model, auxiliaries, optimizer = learning
    criterion = build_criterion(model.config, recipe)
    modules: dict[str, nn.Module] = {"model": kind.module(model), **dict(auxiliaries.items())}
    if accelerator is not None:
        modules = {name: accelerator.prepare_model(module) for name, module in modules.items()}
    dtype = autocast_dtype(amp, next(model.parameters()).device)
    objective = kind(modules.pop("model"), criterion, modules, recipe, dtype)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = MicroBatches(objective, model, parameters, recipe, accelerator, say)
    return TrainStep(gradients, optimizer, recipe.clip_max_norm)


def make_step(model: DetectionModel, amp: str = "auto", recipe: RecipeConfig | None = None) -> TrainStep:
    """Build an optimisation step exactly as `train` runs it, for benchmarks.

    Parameters
    ----------
    model : the model to train; it stays on its device
    amp : "auto", "bf16" or "off"
    recipe : training settings; None = those that `train` uses for this model

    Examples
    --------
    >>> from conditional_detr.factory.create import create_model
    >>> step = make_step(create_model("conditional-detr-tiny", num_classes=2, pretrained_backbone=False))
    >>> target = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    >>> float(step(torch.zeros(1, 3, 64, 64), None, [target])["loss"]) > 0
    True
    """
    recipe = usual_recipe(model.config) if recipe is None else recipe
    model.to(memory_format=torch.channels_last)
    return build_step(trainable(model, recipe), recipe, amp)


def usual_recipe(model: ModelConfig) -> RecipeConfig:
    """Return the recipe that `train` uses for a model, with a class loss that the model supports."""
    recipe = recipe_for(model, recipe_of(model))
    fits = class_loss_fits(recipe.class_loss, model.classification)
    return recipe if fits else updated(recipe, {"class_loss": "model"}, "train")
