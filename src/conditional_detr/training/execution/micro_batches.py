"""Compute the gradients of a batch in parts: in sequence, or in parallel threads on the CPU.

If memory runs out, batches are split into more parts.
"""

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.data.loader import Batch
from conditional_detr.device.choose import is_out_of_memory
from conditional_detr.device.seeding import random_state_of, set_random_state
from conditional_detr.errors import RunError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.training.execution.activation_checkpointing import activation_checkpointing
from conditional_detr.training.objective.criterion import batch_totals
from conditional_detr.training.objective.objective import Objective

if TYPE_CHECKING:
    from accelerate import Accelerator

NO_ROOM = (
    "there is not enough memory for {}: use a smaller --imgsz or --batch, --set gradient_checkpointing=true, or "
    "--set grad_accum_steps=N"
)
Losses = dict[str, Tensor]
LossesOf = Callable[[slice], Losses]


class MicroBatches:
    """Computes the gradients of a batch in parts. The number of parts does not change the result.

    Parameters
    ----------
    objective : computes the losses of a part
    model : the detector itself, not wrapped for distributed training
    parameters : the parameters to compute gradients for; frozen ones are ignored
    recipe : uses `grad_accum_steps` and `gradient_checkpointing`
    accelerator : connects several processes; None = a single process
    say : called with a message each time memory runs out and batches are split further

    Attributes
    ----------
    grad_accum_steps : number of parts that are processed in sequence. It increases if memory runs out
    """

    def __init__(
        self,
        objective: Objective,
        model: DetectionModel,
        parameters: list[nn.Parameter],
        recipe: RecipeConfig,
        accelerator: "Accelerator | None" = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self.objective, self.model, self.accelerator, self.say = objective, model, accelerator, say
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.device = next(model.parameters()).device
        self.grad_accum_steps, self.gradient_checkpointing = recipe.grad_accum_steps, recipe.gradient_checkpointing
        self.pool: ThreadPoolExecutor | None = None

    def __call__(self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]]) -> Losses:
        """Compute the gradients of a batch and store them in the parameters. Returns the losses, detached.

        Raises
        ------
        RunError : memory is too small for a single image; or memory ran out in a run of several processes, where batches are
            not split further
        """
        threads, random_state = torch.get_num_threads(), random_state_of(self.device)
        while True:
            torch.set_num_threads(threads)
            try:
                return self._gradients(*on_device((images, padding_mask, targets), self.device))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._split_further(len(images))  # outside of `except`, where the error no longer keeps tensors alive
            set_random_state(random_state, self.device)  # so that dropout draws the same masks again

    def _gradients(self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]]) -> Losses:
        self.objective.model.train()
        totals = batch_totals(targets, self.objective.num_queries(self.model.config), self.device)
        side_by_side = self._num_parallel(len(images))
        size = -(-len(images) // max(side_by_side, self.grad_accum_steps))
        if padding_mask is not None and self.device.type == "cpu" and self.accelerator is None:
            size = 1  # no image is padded to the size of another one, which costs more than operations on single images
        parts = [slice(start, start + size) for start in range(0, len(images), size)]

        def losses_of(part: slice) -> Losses:
            mask = None if padding_mask is None else padding_mask[part]
            own = (images[part], mask)
            if len(parts) > 1:
                own = trimmed(*own, self.model.preprocessor.size_multiple)
            return self.objective(*own, targets[part], totals, len(images))

        self._zero_gradients()
        return self._parallel(losses_of, parts, side_by_side) if side_by_side > 1 else self._sequential(losses_of, parts)

    def _sequential(self, losses_of: LossesOf, parts: list[slice]) -> Losses:
        total: Losses = {}
        for part in parts:
            with self._synchronised(last=part is parts[-1]), self._recomputing():
                losses = losses_of(part)
                losses["loss"].backward()  # type: ignore[no-untyped-call]
            total = added(total, losses)
        return total

    def _parallel(self, losses_of: LossesOf, parts: list[slice], side_by_side: int) -> Losses:
        """Process the parts in parallel threads. Gradients are added in the order of the parts, as in `_sequential`.

        The rest of the step uses as few threads as one part. If another program keeps the cores busy, threads that wait for
        each other would lose whole time slices.
        """
        threads = -(-torch.get_num_threads() // side_by_side)
        if self.pool is None:
            self.pool = ThreadPoolExecutor(side_by_side, initializer=torch.set_num_threads, initargs=(threads,))

        def work(part: slice) -> tuple[tuple[Tensor | None, ...], Losses]:
            losses = losses_of(part)
            return torch.autograd.grad(losses["loss"], self.parameters, allow_unused=True), added({}, losses)

        total: Losses = {}
        running = [self.pool.submit(work, part) for part in parts]
        torch.set_num_threads(threads)
        try:
            while running:
                gradients, losses = running[0].result()
                total = added(total, losses)
                add_gradients(self.parameters, gradients)
                del running[0], gradients  # their memory is free for the next part
        finally:
            wait(running)  # also if a part has failed
        return total

    def _num_parallel(self, images: int) -> int:
        """Number of parts of a batch that are processed in parallel; 1 = no parallel parts.

        On a CPU, one part per thread is faster than all threads on the complete batch. Parts are not processed in parallel
        with dropout, whose random numbers would be drawn in no fixed order, or when memory is short.
        """
        alone = self.device.type != "cpu" or self.accelerator is not None or self.model.config.dropout > 0
        if alone or self.grad_accum_steps > 1 or self.gradient_checkpointing:
            return 1
        return min(images, torch.get_num_threads())

    def _split_further(self, images: int) -> None:
        """Split this and all following batches into twice as many parts."""
        if self.accelerator is not None or self.grad_accum_steps >= images:
            raise RunError(NO_ROOM.format(f"{-(-images // self.grad_accum_steps)} images at a time"))
        self._zero_gradients()
        gc.collect()  # the errors of failed threads still keep their tensors alive
        self.grad_accum_steps = min(images, 2 * self.grad_accum_steps)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(f"not enough memory: each batch is processed in {self.grad_accum_steps} parts from now on (same result)")

    def _zero_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _recomputing(self) -> AbstractContextManager[None]:
        return activation_checkpointing(self.model) if self.gradient_checkpointing else nullcontext()

    @contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        """Context manager that lets processes exchange gradients only after the last part."""
        with ExitStack() as stack:
            if not last and self.accelerator is not None:
                for module in self.objective.modules:
                    stack.enter_context(self.accelerator.no_sync(module))
            yield


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch to a device. Tensors that are already there are not copied."""
    images, padding_mask, targets = batch
    return (
        images.to(device, memory_format=torch.channels_last, non_blocking=True),
        None if padding_mask is None else padding_mask.to(device, non_blocking=True),
        [{key: value.to(device, non_blocking=True) for key, value in target.items()} for target in targets],
    )


@torch.no_grad()
def add_gradients(parameters: list[nn.Parameter], gradients: tuple[Tensor | None, ...]) -> None:
    """Add gradients to those that the parameters already have. None adds nothing."""
    sums: list[tuple[Tensor, Tensor]] = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        elif gradient is not None:
            sums.append((parameter.grad, gradient))
    if sums:
        torch._foreach_add_([own for own, _ in sums], [further for _, further in sums])


def added(total: Losses, losses: Losses) -> Losses:
    """Add the losses of another part, detached, to the sums so far."""
    return {key: total.get(key, 0) + value.detach() for key, value in losses.items()}


def trimmed(images: Tensor, padding_mask: Tensor | None, multiple: int) -> tuple[Tensor, Tensor | None]:
    """Remove the rows and columns that are padding in all images. The mask is None if no padding is left.

    Parameters
    ----------
    images : float32 [B, 3, H, W]
    padding_mask : bool [B, H, W], True = padding, at the right and the bottom; or None
    multiple : height and width stay multiples of this, px
    """
    if padding_mask is None:
        return images, None
    visible = ~padding_mask.all(0)
    height, width = (-(-int(visible.any(axis).sum()) // multiple) * multiple for axis in (1, 0))
    mask = padding_mask[:, :height, :width]
    return images[..., :height, :width], mask if mask.any() else None
