"""The training objective: forward pass and losses of a batch."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.errors import ConfigError
from conditional_detr.training.objective.criterion import SetCriterion
from conditional_detr.training.objective.losses import Totals


class Objective:
    """Forward pass under autocast, the set criterion and, if the recipe uses it, the dense auxiliary loss.

    Parameters
    ----------
    model : the detector; with several processes, wrapped for distributed training
    criterion : matches queries with objects and sums the losses
    auxiliaries : modules "dense" and "extra_queries" from `auxiliary_modules`
    recipe : uses `query_groups` and `dense_aux_weight`
    dtype : data type of matrix products in the forward pass; None = float32
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: SetCriterion,
        auxiliaries: Mapping[str, nn.Module],
        recipe: RecipeConfig,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.criterion, self.dtype = model, criterion, dtype
        self.dense, self.extra_queries = auxiliaries.get("dense"), auxiliaries.get("extra_queries")
        self.query_groups, self.dense_aux_weight = recipe.query_groups, recipe.dense_aux_weight

    @staticmethod
    def module(model: nn.Module) -> nn.Module:
        """The module whose forward pass computes the predictions of a batch. It may wrap the model."""
        return model

    @staticmethod
    def num_queries(model: ModelConfig) -> int:
        """Number of queries of an image that are matched with objects."""
        return model.num_queries

    @property
    def modules(self) -> list[nn.Module]:
        """All modules that are trained."""
        return [module for module in (self.model, self.dense, self.extra_queries) if module is not None]

    def __call__(
        self,
        images: Float[Tensor, "B 3 H W"],
        padding_mask: Bool[Tensor, "B H W"] | None,
        targets: list[dict[str, Tensor]],
        totals: Totals,
        batch_size: int,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch or of a part of it. The losses of all parts add up to those of the batch.

        Parameters
        ----------
        images : normalised images
        padding_mask : True = padding; None = no padding
        targets : one dict per image, see `SetCriterion`
        totals : normalisers of the complete batch
        batch_size : number of images in the complete batch

        Returns
        -------
        scalars: "loss", the weighted total, and its terms
        """
        rounded = self.dtype is not None
        # Without autocast's cache of rounded weights: threads share and clear it, so results would depend on their timing.
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=rounded, cache_enabled=False):
            output = self.predictions(images, padding_mask, targets)
        losses: dict[str, Tensor] = self.criterion(output, self.objects(targets), totals, self.query_groups)
        if self.dense is not None and (memory := output.memory) is not None:
            dense = self.dense(memory.tokens, memory.centres, memory.is_padding, targets)
            losses["loss_dense"] = dense * len(images) / batch_size
            losses["loss"] = losses["loss"] + self.dense_aux_weight * losses["loss_dense"]
        return losses

    def predictions(self, images: Tensor, padding_mask: Tensor | None, targets: list[dict[str, Tensor]]) -> Any:
        """Compute the predictions of a batch, a `DetectionOutput`."""
        extra = {} if self.extra_queries is None else {"extra_queries": self.extra_queries()}
        return self.model(images, padding_mask, **extra)

    def objects(self, targets: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Select what the criterion needs of the targets."""
        return targets


def class_loss_fits(class_loss: str, classification: str) -> bool:
    """Whether a class loss of a recipe can train a model with this classification."""
    return class_loss == "model" or classification == "focal"


def build_criterion(model: ModelConfig, recipe: RecipeConfig) -> SetCriterion:
    """Build the set criterion for a model and a recipe.

    Raises
    ------
    ConfigError : the recipe's class loss does not support the model's classification
    """
    if not class_loss_fits(recipe.class_loss, model.classification):
        raise ConfigError(
            f"class_loss = {recipe.class_loss!r} and model.classification = {model.classification!r} cannot be combined: "
            f"{recipe.class_loss} needs focal classification. Remove one of the two settings"
        )
    return SetCriterion(model.num_classes, model.classification if recipe.class_loss == "model" else recipe.class_loss)
