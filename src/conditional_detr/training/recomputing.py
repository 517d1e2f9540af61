"""Gradient checkpointing: activations are computed again in the backward pass instead of kept."""

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from conditional_detr.model.detr import DETR


def recompute_activations(model: DETR) -> None:
    """Keep only the inputs of the backbone's blocks and of the layers of encoder and decoder, in place.

    Gradients are the same, dropout included; a step takes up to a third longer. Without gradients nothing changes.
    """
    for part in _parts(model):
        if "forward" not in vars(part):  # once is enough
            part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def _parts(model: DETR) -> Iterator[nn.Module]:
    yield from model.encoder.layers
    yield from model.decoder.layers
    for stage in model.backbone.body.children():
        for block in stage if isinstance(stage, nn.Sequential) else [stage]:
            if any(parameter.requires_grad for parameter in block.parameters()):
                yield block
