"""One optimisation step, as `train` runs it and as benchmarks time it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conditional_detr.config import RECIPES, RecipeConfig, recipe_of
from conditional_detr.device import is_out_of_memory, random_state_of, set_random_state
from conditional_detr.errors import ConfigError, RunError
from conditional_detr.factory import DetectionModel
from conditional_detr.training.companions import build_helpers
from conditional_detr.training.criterion import SetCriterion, batch_totals
from conditional_detr.training.optimizer import build_optimizer
from conditional_detr.training.recomputing import recomputing

if TYPE_CHECKING:
    from accelerate import Accelerator

AMP_CHOICES = ("auto", "bf16", "off")


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """What matrix products run in: bfloat16 where asked for or, with "auto", where the device has it in hardware."""
    if amp not in AMP_CHOICES:
        raise ConfigError(f"amp must be one of {', '.join(AMP_CHOICES)}, not {amp!r}")
    if amp == "off" or (amp == "auto" and not _has_bf16(device)):
        return None
    return torch.bfloat16


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":  # without AVX512_BF16 or AMX, bf16 products on a processor are hundreds of times slower
        known: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


NO_ROOM = (
    "there is not enough memory for {}: give a smaller --imgsz or --batch, --set gradient_checkpointing=true, or "
    "--set accumulate=N"
)


class TrainStep:
    """Forward, loss, backward, clip, update.

    Parameters
    ----------
    model : the detector, on its device
    criterion : what is lost
    optimizer : over the model's parameters
    recipe : `clip`, `accumulate`, `gradient_checkpointing` and `dense_weight` are read
    amp : "auto", "bf16" or "off"
    accelerator : prepares the model for several processes; None = this process alone
    helpers : what the recipe lets learn beside the model, as `build_helpers` makes it
    say : is told when memory is too small for a batch and it is worked through in more parts
    """

    def __init__(
        self,
        model: DetectionModel,
        criterion: SetCriterion,
        optimizer: torch.optim.Optimizer,
        recipe: RecipeConfig,
        amp: str = "auto",
        accelerator: "Accelerator | None" = None,
        helpers: nn.ModuleDict | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self._recomputing: Callable[[], AbstractContextManager[None]]
        self._recomputing = partial(recomputing, model) if recipe.gradient_checkpointing else nullcontext
        self.device = next(model.parameters()).device
        self.num_queries = model.config.num_queries
        self.model: nn.Module = model if accelerator is None else accelerator.prepare_model(model)
        self.criterion, self.optimizer, self.recipe, self.accelerator = criterion, optimizer, recipe, accelerator
        self.helpers = nn.ModuleDict() if helpers is None else helpers
        self.dense, self.further_queries = (self._prepared(name) for name in ("dense", "further_queries"))
        self.dtype = autocast_dtype(amp, self.device)
        self.accumulate, self.say = recipe.accumulate, say
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Take one step.

        Parameters
        ----------
        images : float32 [B, 3, H, W]
        padding_mask : bool [B, H, W] or None
        targets : as `SetCriterion` wants them

        Returns
        -------
        the losses of the batch before the update, detached, and "gradient_norm" before clipping; where that is not finite
        no weight was moved

        Raises
        ------
        RunError : there is not enough memory for a single picture, or in one of several processes
        """
        random_state = random_state_of(self.device)
        while True:
            try:
                losses = self._gradients(images, padding_mask, targets)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._halve(len(images))  # here, where the error holds on to no tensor any more
            set_random_state(random_state, self.device)  # dropout draws again what it drew
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or torch.inf)
        if torch.isfinite(norm):  # else the step is left out: one bad batch must not cost the weights
            try:
                self.optimizer.step()
            except RuntimeError as error:  # half of the weights may be moved: it cannot be taken again
                if not is_out_of_memory(error):
                    raise
                raise RunError(NO_ROOM.format("the optimiser")) from None
        return losses | {"gradient_norm": norm}

    def _prepared(self, name: str) -> Any:
        helper = dict(self.helpers.items()).get(name)
        return helper if helper is None or self.accelerator is None else self.accelerator.prepare_model(helper)

    def _halve(self, pictures: int) -> None:
        """From now on work through a batch in twice as many parts."""
        if self.accelerator is not None or self.accumulate >= pictures:
            raise RunError(NO_ROOM.format(f"{-(-pictures // self.accumulate)} pictures at a time"))
        self.optimizer.zero_grad(set_to_none=True)
        self.accumulate = min(pictures, 2 * self.accumulate)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(f"not enough memory: a batch is worked through in {self.accumulate} parts from now on")

    def _gradients(self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.model.train()
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        padding_mask = None if padding_mask is None else padding_mask.to(self.device, non_blocking=True)
        targets = [{key: value.to(self.device, non_blocking=True) for key, value in t.items()} for t in targets]
        totals = batch_totals(targets, self.num_queries, self.device)
        size = -(-len(images) // self.accumulate)
        parts = range(0, len(images), size)
        self.optimizer.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = {}
        for start in parts:
            part = slice(start, start + size)
            with self._synchronised(last=start == parts[-1]), self._recomputing():
                with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
                    further = {} if self.further_queries is None else {"further_queries": self.further_queries()}
                    output = self.model(images[part], None if padding_mask is None else padding_mask[part], **further)
                losses = self.criterion(output, targets[part], totals, self.recipe.groups)
                if self.dense is not None and output.memory is not None:
                    share = len(images[part]) / len(images)
                    memory = output.memory
                    losses["loss_dense"] = share * self.dense(memory.tokens, memory.centres, memory.is_padding, targets[part])
                    losses["loss"] = losses["loss"] + self.recipe.dense_weight * losses["loss_dense"]
                losses["loss"].backward()
            total = {key: total.get(key, 0) + value.detach() for key, value in losses.items()}
        return total

    def _synchronised(self, last: bool) -> Any:
        stack = ExitStack()
        if not last and self.accelerator is not None:
            for model in (self.model, self.dense, self.further_queries):
                stack.enter_context(nullcontext() if model is None else self.accelerator.no_sync(model))
        return stack


def make_step(model: DetectionModel, amp: str = "auto", recipe: RecipeConfig | None = None) -> TrainStep:
    """An optimisation step exactly as `train` runs it, for benchmarks.

    Parameters
    ----------
    model : stays on its device
    amp : "auto", "bf16" or "off"
    recipe : None = the one that `train` takes for this model

    Examples
    --------
    >>> from conditional_detr.factory import create_model
    >>> step = make_step(create_model("conditional-detr-tiny", num_classes=2, pretrained_backbone=False))
    >>> target = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    >>> float(step(torch.zeros(1, 3, 64, 64), None, [target])["loss"]) > 0
    True
    """
    recipe = RECIPES[recipe_of(model.config)] if recipe is None else recipe
    model.to(memory_format=torch.channels_last)
    criterion, helpers = build_criterion(model, recipe), build_helpers(model, recipe)
    return TrainStep(model, criterion, build_optimizer(model, recipe, helpers), recipe, amp, helpers=helpers)


def build_criterion(model: DetectionModel, recipe: RecipeConfig) -> SetCriterion:
    """What a model loses with a recipe."""
    return SetCriterion(model.config.num_classes, model.config.classification, aligned=recipe.aligned)
