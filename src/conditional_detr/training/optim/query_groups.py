"""Modules that are trained with the model and dropped afterwards."""

import torch
from torch import Tensor, nn

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.factory.build import DetectionModel
from conditional_detr.training.objective.dense_aux import DenseClassifier

GROUP_NOISE = 0.5  # noise added to trained queries to start extra groups, in standard deviations of these queries


class ExtraQueries(nn.Module):
    """Object queries of extra groups. Each object is matched with one query in every group, which gives more training signal.

    Groups do not attend to each other. All groups use the same decoder weights. Inference uses only the model's own queries.

    Source: Group DETR (Chen et al., ICCV 2023), section 3.

    Parameters
    ----------
    groups : number of extra groups
    num_queries, dim : Q and D of the model
    """

    def __init__(self, groups: int, num_queries: int, dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(groups, num_queries, dim))

    def forward(self) -> Tensor:
        """Return the object queries of all extra groups, [groups, Q, D]."""
        return self.queries


def auxiliary_modules(model: DetectionModel, recipe: RecipeConfig, is_trained: bool = False) -> nn.ModuleDict:
    """Create the auxiliary modules of a recipe on the model's device: "dense" and "extra_queries", if the recipe uses them.

    Extra queries of a trained model start near its own, since untrained groups would damage the trained weights.
    """
    config = model.config
    auxiliaries = nn.ModuleDict()
    if recipe.dense_aux_weight:
        auxiliaries["dense"] = DenseClassifier(config.hidden_dim, config.num_classes)
    if recipe.query_groups > 1:
        extra = ExtraQueries(recipe.query_groups - 1, config.num_queries, config.hidden_dim)
        if is_trained:
            own = model.object_query.detach().cpu().repeat(recipe.query_groups - 1, 1, 1)
            extra.queries.data = own + GROUP_NOISE * own.std() * torch.randn_like(own)
        auxiliaries["extra_queries"] = extra
    return auxiliaries.to(next(model.parameters()).device)
