"""What a training step lowers: a batch → its losses."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.errors import ConfigError
from conditional_detr.training.objective.criterion import SetCriterion
from conditional_detr.training.objective.losses import Totals


class Objective:
    """The formula of a step: forward under autocast, the set criterion, and the dense auxiliary loss where a recipe has it.

    Parameters
    ----------
    model : the detector, possibly prepared for several processes
    criterion : matches queries with objects and adds up the losses
    auxiliaries : "dense" and "extra_queries", as `auxiliary_modules` makes them
    recipe : `query_groups` and `dense_aux_weight` are read
    dtype : that matrix products of the forward pass run in; None = float32
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

    @property
    def modules(self) -> list[nn.Module]:
        """All that learn."""
        return [module for module in (self.model, self.dense, self.extra_queries) if module is not None]

    def __call__(
        self,
        images: Float[Tensor, "B 3 H W"],
        padding_mask: Bool[Tensor, "B H W"] | None,
        targets: list[dict[str, Tensor]],
        totals: Totals,
        batch_size: int,
    ) -> dict[str, Tensor]:
        """Losses of these images, to be added to those of the other parts of their batch.

        Parameters
        ----------
        images : normalised
        padding_mask : True = padding
        targets : as `SetCriterion` wants them
        totals : of the whole batch
        batch_size : images of the whole batch

        Returns
        -------
        "loss", the weighted total, and its terms: scalars
        """
        rounded = self.dtype is not None
        # Threads share the cache of rounded weights and empty it for each other: sums would depend on who is first.
        with torch.autocast(images.device.type, dtype=self.dtype, enabled=rounded, cache_enabled=False):
            extra = {} if self.extra_queries is None else {"extra_queries": self.extra_queries()}
            output = self.model(images, padding_mask, **extra)
        losses: dict[str, Tensor] = self.criterion(output, targets, totals, self.query_groups)
        if self.dense is not None and (memory := output.memory) is not None:
            dense = self.dense(memory.tokens, memory.centres, memory.is_padding, targets)
            losses["loss_dense"] = dense * len(images) / batch_size
            losses["loss"] = losses["loss"] + self.dense_aux_weight * losses["loss_dense"]
        return losses


def class_loss_fits(class_loss: str, classification: str) -> bool:
    """Whether a recipe's loss of classes can train a model with this classification."""
    return class_loss == "model" or classification == "focal"


def build_criterion(model: ModelConfig, recipe: RecipeConfig) -> SetCriterion:
    """The losses of a model with a recipe.

    Raises
    ------
    ConfigError : the recipe's loss of classes is made for another classification than the model's
    """
    if not class_loss_fits(recipe.class_loss, model.classification):
        raise ConfigError(
            f"class_loss = {recipe.class_loss!r} and model.classification = {model.classification!r} exclude each other: "
            f"{recipe.class_loss} is for focal classification. Leave one of the two out"
        )
    return SetCriterion(model.num_classes, model.classification if recipe.class_loss == "model" else recipe.class_loss)
