"""Small models for tests."""

import torch

from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model


def perturbed(model: DetectionModel) -> DetectionModel:
    """The model with noise on its weights: fresh ones hide faults, as all queries come out alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def small(name: str = "conditional-detr-tiny", num_classes: int = 5, **overrides: object) -> DetectionModel:
    """A model with few parts, fresh weights, in eval mode; the same at each call."""
    torch.manual_seed(0)
    few = {"encoder_layers": 2, "decoder_layers": 3, "feedforward_dim": 64, "num_queries": 7}
    return create_model(name, num_classes, pretrained_backbone=False, **{**few, **overrides}).eval()
