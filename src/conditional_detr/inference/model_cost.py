"""Count the parameters and multiply-adds of a model."""

from typing import TYPE_CHECKING

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from conditional_detr.config.model_costs import LANDSCAPE, ModelCost
from conditional_detr.images.sizes import input_hw
from conditional_detr.model.backbone.frozen_norm import copies_to_pad

if TYPE_CHECKING:
    from conditional_detr.factory.build import DetectionModel


def cost_of(model: "DetectionModel") -> ModelCost:
    """Count the parameters of a model, and its multiply-adds for an image of `LANDSCAPE` size."""
    trainable, frozen = (
        sum(p.numel() for p in model.parameters() if p.requires_grad is is_trained) for is_trained in (True, False)
    )
    return ModelCost(trainable, frozen, multiply_adds(model, *input_hw(LANDSCAPE, model.preprocessor)))


@torch.no_grad()
def multiply_adds(model: "DetectionModel", height: int, width: int) -> int:
    """Number of multiply-adds for one image of the given size in px, counted by PyTorch."""
    images = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    # Detached, because the counter adds hooks to tensors that require gradients.
    detached = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with copies_to_pad(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        functional_call(model, detached, (images,))
    return int(counter.get_total_flops()) // 2
