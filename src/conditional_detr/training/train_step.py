"""One optimisation step, as `train` runs it and as benchmarks time it."""

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conditional_detr.config.presets import recipe_of
from conditional_detr.config.recipes import RECIPES, RecipeConfig
from conditional_detr.data.loader import Batch
from conditional_detr.device.bf16 import has_fast_bf16
from conditional_detr.device.choose import is_out_of_memory
from conditional_detr.device.seeding import random_state_of, set_random_state
from conditional_detr.errors import ConfigError, RunError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.training.execution.activation_checkpointing import activation_checkpointing
from conditional_detr.training.objective.criterion import SetCriterion, batch_totals
from conditional_detr.training.objective.losses import Totals
from conditional_detr.training.optim.optimizer import build_optimizer
from conditional_detr.training.optim.query_groups import auxiliary_modules

if TYPE_CHECKING:
    from accelerate import Accelerator

AMP_CHOICES = ("auto", "bf16", "off")


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """What matrix products run in: bfloat16 where asked for or, with "auto", where the device is faster with it."""
    if amp not in AMP_CHOICES:
        raise ConfigError(f"amp must be one of {', '.join(AMP_CHOICES)}, not {amp!r}")
    if amp == "off" or (amp == "auto" and not has_fast_bf16(device)):
        return None
    return torch.bfloat16


NO_ROOM = (
    "there is not enough memory for {}: give a smaller --imgsz or --batch, --set gradient_checkpointing=true, or "
    "--set grad_accum_steps=N"
)


class TrainStep:
    """Forward, loss, backward, clip, update.

    Parameters
    ----------
    model : the detector, on its device
    criterion : what is lost
    optimizer : over the model's parameters
    recipe : `clip_max_norm`, `grad_accum_steps`, `gradient_checkpointing` and `dense_aux_weight` are read
    amp : "auto", "bf16" or "off"
    accelerator : prepares the model for several processes; None = this process alone
    helpers : what the recipe lets learn beside the model, as `auxiliary_modules` makes it
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
        self._recomputing = partial(activation_checkpointing, model) if recipe.gradient_checkpointing else nullcontext
        self.device = next(model.parameters()).device
        self.num_queries = model.config.num_queries
        self.model: nn.Module = model if accelerator is None else accelerator.prepare_model(model)
        self.criterion, self.optimizer, self.recipe, self.accelerator = criterion, optimizer, recipe, accelerator
        self.helpers = nn.ModuleDict() if helpers is None else helpers
        self.dense, self.extra_queries = (self._prepared(name) for name in ("dense", "extra_queries"))
        self.dtype = autocast_dtype(amp, self.device)
        self.amp = "off" if self.dtype is None else "bf16"
        self.grad_accum_steps, self.say = recipe.grad_accum_steps, say
        self.pool: ThreadPoolExecutor | None = None
        self.multiple = model.preprocessor.size_multiple
        self.has_dropout = model.config.dropout > 0
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.learning = [p for p in self.parameters if p.requires_grad]

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
        RunError : there is not enough memory for a single image, or in one of several processes
        """
        threads = torch.get_num_threads()
        try:
            return self._with_oom_retry(images, padding_mask, targets, threads)
        finally:
            torch.set_num_threads(threads)

    def _with_oom_retry(
        self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]], threads: int
    ) -> dict[str, Tensor]:
        random_state = random_state_of(self.device)
        while True:
            torch.set_num_threads(threads)
            try:
                losses = self._gradients(images, padding_mask, targets)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._split_further(len(images))  # here, where the error holds on to no tensor any more
            set_random_state(random_state, self.device)  # dropout draws again what it drew
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_max_norm or torch.inf)
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

    def _split_further(self, images: int) -> None:
        """From now on work through a batch in twice as many parts."""
        if self.accelerator is not None or self.grad_accum_steps >= images:
            raise RunError(NO_ROOM.format(f"{-(-images // self.grad_accum_steps)} images at a time"))
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()  # what threads have failed with still holds what they had made
        self.grad_accum_steps = min(images, 2 * self.grad_accum_steps)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(f"not enough memory: a batch is worked through in {self.grad_accum_steps} parts from now on")

    def _gradients(self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.model.train()
        images, padding_mask, targets = self.on_device(images, padding_mask, targets)
        totals = batch_totals(targets, self.num_queries, self.device)
        beside = self._num_parallel(len(images))
        size = -(-len(images) // max(beside, self.grad_accum_steps))
        parts = [slice(start, start + size) for start in range(0, len(images), size)]

        def losses_of(part: slice) -> dict[str, Tensor]:
            mask = None if padding_mask is None else padding_mask[part]
            own = (images[part], mask) if len(parts) == 1 else trimmed(images[part], mask, self.multiple)
            return self._losses(*own, targets[part], totals, len(images))

        self.optimizer.zero_grad(set_to_none=True)
        if beside > 1:
            return self._backward_in_parallel(losses_of, parts)
        total: dict[str, Tensor] = {}
        for part in parts:
            with self._synchronised(last=part is parts[-1]), self._recomputing():
                losses = losses_of(part)
                losses["loss"].backward()  # type: ignore[no-untyped-call]
            total = added(total, losses)
        return total

    def on_device(self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]]) -> Batch:
        """The batch where the model is; nothing is copied that is there already."""
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        padding_mask = None if padding_mask is None else padding_mask.to(self.device, non_blocking=True)
        return (
            images,
            padding_mask,
            [{key: value.to(self.device, non_blocking=True) for key, value in t.items()} for t in targets],
        )

    def _losses(
        self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]], totals: Totals, batch: int
    ) -> dict[str, Tensor]:
        """Of a part of a batch of so many images, to be added to those of the other parts."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            extra = {} if self.extra_queries is None else {"extra_queries": self.extra_queries()}
            output = self.model(images, padding_mask, **extra)
        losses: dict[str, Tensor] = self.criterion(output, targets, totals, self.recipe.query_groups)
        if self.dense is not None and (memory := output.memory) is not None:
            dense = self.dense(memory.tokens, memory.centres, memory.is_padding, targets)
            losses["loss_dense"] = dense * len(images) / batch
            losses["loss"] = losses["loss"] + self.recipe.dense_aux_weight * losses["loss_dense"]
        return losses

    def _num_parallel(self, images: int) -> int:
        """Parts of a batch that are worked through beside each other: on a processor that is faster than all threads on the
        whole. One where dropout would be drawn in no certain order, or memory is short.
        """
        alone = self.device.type != "cpu" or self.accelerator is not None or self.has_dropout
        if alone or self.grad_accum_steps > 1 or self.recipe.gradient_checkpointing:
            return 1
        return min(images, torch.get_num_threads())

    def _backward_in_parallel(self, losses_of: Callable[[slice], dict[str, Tensor]], parts: list[slice]) -> dict[str, Tensor]:
        """Gradients of all parts, added in their order: as if one had come after the other.

        The rest of the step has as few threads as a part: where another program is busy, threads that wait for each other lose
        whole time slices.
        """
        threads = -(-torch.get_num_threads() // len(parts))
        if self.pool is None:
            self.pool = ThreadPoolExecutor(len(parts), initializer=torch.set_num_threads, initargs=(threads,))

        def work(part: slice) -> tuple[tuple[Tensor | None, ...], dict[str, Tensor]]:
            losses = losses_of(part)
            return torch.autograd.grad(losses["loss"], self.learning, allow_unused=True), added({}, losses)

        total: dict[str, Tensor] = {}
        running = [self.pool.submit(work, part) for part in parts]
        wait(running)  # for all of them, also where one has failed
        torch.set_num_threads(threads)
        for gradients, losses in (each.result() for each in running):
            total = added(total, losses)
            add_gradients(self.learning, gradients)
        return total

    def _synchronised(self, last: bool) -> Any:
        stack = ExitStack()
        if not last and self.accelerator is not None:
            for model in (self.model, self.dense, self.extra_queries):
                stack.enter_context(nullcontext() if model is None else self.accelerator.no_sync(model))
        return stack


@torch.no_grad()
def add_gradients(parameters: list[nn.Parameter], gradients: tuple[Tensor | None, ...]) -> None:
    """To those that they have already; None adds nothing."""
    sums: list[tuple[Tensor, Tensor]] = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        elif gradient is not None:
            sums.append((parameter.grad, gradient))
    if sums:
        torch._foreach_add_([own for own, _ in sums], [further for _, further in sums])


def added(total: dict[str, Tensor], losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses so far and those of a further part, detached."""
    return {key: total.get(key, 0) + value.detach() for key, value in losses.items()}


def trimmed(images: Tensor, padding_mask: Tensor | None, multiple: int) -> tuple[Tensor, Tensor | None]:
    """Images without the rows and columns that are padding in all of them; no mask where nothing is left to pad.

    Parameters
    ----------
    images : float32 [B, 3, H, W]
    padding_mask : bool [B, H, W], True = padding, at the right and the bottom; or None
    multiple : px that the sizes stay multiples of
    """
    if padding_mask is None:
        return images, None
    visible = ~padding_mask.all(0)
    height, width = (-(-int(visible.any(axis).sum()) // multiple) * multiple for axis in (1, 0))
    mask = padding_mask[:, :height, :width]
    return images[..., :height, :width], mask if mask.any() else None


def make_step(model: DetectionModel, amp: str = "auto", recipe: RecipeConfig | None = None) -> TrainStep:
    """An optimisation step exactly as `train` runs it, for benchmarks.

    Parameters
    ----------
    model : stays on its device
    amp : "auto", "bf16" or "off"
    recipe : None = the one that `train` takes for this model

    Examples
    --------
    >>> from conditional_detr.factory.create import create_model
    >>> step = make_step(create_model("conditional-detr-tiny", num_classes=2, pretrained_backbone=False))
    >>> target = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}
    >>> float(step(torch.zeros(1, 3, 64, 64), None, [target])["loss"]) > 0
    True
    """
    recipe = RECIPES[recipe_of(model.config)] if recipe is None else recipe
    model.to(memory_format=torch.channels_last)
    criterion, helpers = build_criterion(model, recipe), auxiliary_modules(model, recipe)
    return TrainStep(model, criterion, build_optimizer(model, recipe, helpers), recipe, amp, helpers=helpers)


def build_criterion(model: DetectionModel, recipe: RecipeConfig) -> SetCriterion:
    """The losses of a model with a recipe."""
    return SetCriterion(model.config.num_classes, class_loss_of(model, recipe))


def class_loss_of(model: DetectionModel, recipe: RecipeConfig) -> str:
    """The loss of classes: the recipe's, unless it is made for another classification than the model's."""
    if recipe.class_loss == "ia_bce" and model.config.classification == "focal":
        return recipe.class_loss
    return model.config.classification
