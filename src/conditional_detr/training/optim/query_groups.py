"""Modules that are trained with the model and dropped afterwards."""

import torch
from torch import Tensor, nn

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.factory.build import DetectionModel
from conditional_detr.training.objective.dense_aux import DenseClassifier

GROUP_NOISE = 0.5  # of extra groups around the model's own queries, in their standard deviation


class ExtraQueries(nn.Module):
    """Object queries of extra groups: each object is answered once in every group, so it teaches as many queries.

    Groups do not see each other, share all other weights with the model's own queries, and are left out of inference.

    Source: Group DETR (Chen et al., ICCV 2023), section 3.

    Parameters
    ----------
    groups : how many extra ones
    num_queries, dim : Q and D, of the model
    """

    def __init__(self, groups: int, num_queries: int, dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(groups, num_queries, dim))

    def forward(self) -> Tensor:
        """All of them, [groups, Q, D]."""
        return self.queries


def auxiliary_modules(model: DetectionModel, recipe: RecipeConfig) -> nn.ModuleDict:
    """The auxiliary modules of a recipe, on the model's device: "dense" and "extra_queries"."""
    config = model.config
    auxiliaries = nn.ModuleDict()
    if recipe.dense_aux_weight:
        auxiliaries["dense"] = DenseClassifier(config.hidden_dim, config.num_classes)
    if recipe.query_groups > 1:
        extra = ExtraQueries(recipe.query_groups - 1, config.num_queries, config.hidden_dim)
        if recipe.init_from:  # what is learned already would be unlearned by groups that know nothing
            own = model.object_query.detach().cpu().repeat(recipe.query_groups - 1, 1, 1)
            extra.queries.data = own + GROUP_NOISE * own.std() * torch.randn_like(own)
        auxiliaries["extra_queries"] = extra
    return auxiliaries.to(next(model.parameters()).device)
