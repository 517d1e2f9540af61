"""The losses of pre-training."""

from typing import Any

import torch
from torch import Tensor, nn

from conditional_detr.config.schema import ModelConfig
from conditional_detr.factory.build import DetectionModel
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.model.detr import DetectionOutput
from conditional_detr.pretraining.forward import pretraining_output
from conditional_detr.training.objective.objective import Objective

INPUTS = ("patches", "kept")  # entries of a target that are inputs of the model


class PatchPredictions(nn.Module):
    """A model for pre-training as a module whose forward pass takes patches, uint8 [B, x, 3, h, w]."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding_mask: Tensor | None, patches: Tensor, kept: Tensor) -> DetectionOutput:
        normalised = Preprocessor(self.model.preprocessor).normalise(patches)
        return pretraining_output(self.model, images, padding_mask, normalised, kept=kept)


class PretrainingObjective(Objective):
    """Forward pass with patches, and the set criterion: each patch is an object with features (UP-DETR, section 3.2)."""

    @staticmethod
    def module(model: nn.Module) -> nn.Module:
        assert isinstance(model, DetectionModel)
        return PatchPredictions(model)

    @staticmethod
    def num_queries(model: ModelConfig) -> int:
        return model.num_queries // model.patches * model.patches

    def predictions(self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]]) -> Any:
        patches, kept = (torch.stack([target[key] for target in targets]) for key in INPUTS)
        return self.model(images, padding_mask, patches, kept)

    def objects(self, targets: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        return [{key: value for key, value in target.items() if key not in INPUTS} for target in targets]


def objective_of(model: ModelConfig) -> type[Objective]:
    """The objective that trains a model: pre-training if it has patches, else detection."""
    return PretrainingObjective if model.patches else Objective
