"""Queries that carry patches, for pre-training without labels (UP-DETR): each group of queries looks for one patch.

The patches are random crops of the image. Their features come from the backbone.

Source: Dai et al., UP-DETR, CVPR 2021, and released code.
"""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from conditional_detr.errors import ConfigError
from conditional_detr.model.memory import Memory
from conditional_detr.model.mlp import MLP
from conditional_detr.model.precision import FLOAT32
from conditional_detr.model.queries import Decoded, Queries
from conditional_detr.model.query_init import Initial, QueryInit

KEPT = 0.9  # probability with which a query carries its patch in training


class PatchProjection(nn.Linear):
    """Projects the features of a patch to the width of the queries. It keeps PyTorch's initialisation, as the released code."""

    def initialise(self) -> None:
        """Undo the initialisation of the transformer."""
        self.reset_parameters()


class PatchQueries(QueryInit):
    """Mixin of a `QueryInit` whose queries carry patches: the queries of one group are next to each other.

    Parameters
    ----------
    dim, num_queries, content : as for `QueryInit`
    channels : number of channels of a patch's features, C
    patches : number of groups of queries, M; Q // M queries look for each patch
    """

    def __init__(self, dim: int, num_queries: int, content: nn.Module | None, channels: int, patches: int) -> None:
        super().__init__(dim, num_queries, content)
        if patches > num_queries:
            raise ConfigError(f"there must be a query for each of the {patches} patches: num_queries is {num_queries}")
        self.patches, self.per_patch = patches, num_queries // patches
        self.patch_projection = PatchProjection(channels, dim)

    def forward(self, object_query: Float[Tensor, "Q D"], memory: Memory) -> Initial:
        raise ConfigError(
            "this model is for pre-training, and needs patches: use pretraining_output, or load it with num_classes=K for a "
            "detector"
        )

    def with_patches(
        self,
        object_query: Float[Tensor, "Q D"],
        memory: Memory,
        features: Float[Tensor, "B x C"],
        kept: Bool[Tensor, "B q"] | None,
    ) -> Queries:
        """The queries before the first layer, x · (Q // M) for x patches, in the order of the patches.

        Queries do not see those of other patches.

        Parameters
        ----------
        object_query, memory : as for `QueryInit`
        features : features of x patches, 1 ≤ x ≤ M
        kept : whether a query carries its patch; None = all in eval mode, nine of ten in training, drawn at random
        """
        used = self.per_patch * features.shape[1]
        queries = super().forward(object_query, memory).queries
        content, position, reference, embedded = (x[:, :used] for x in queries[:4])
        queries = Queries(content, position, reference, embedded)
        patches = self.patch_projection(features).repeat_interleave(self.per_patch, dim=1)
        if kept is None and self.training:
            kept = torch.rand(patches.shape[:2], device=patches.device) < KEPT
        if kept is not None:
            patches = patches * kept[:, :used, None]
        group = torch.arange(used, device=patches.device) // self.per_patch
        return self.carrying(queries, patches)._replace(blocked=group[:, None] != group)

    def carrying(self, queries: Queries, patches: Float[Tensor, "B q D"]) -> Queries:
        """Add the projected patches to the queries."""
        raise NotImplementedError


class PatchInPosition(PatchQueries):
    """The patch is added to the object query, which each layer uses again (UP-DETR)."""

    def carrying(self, queries: Queries, patches: Float[Tensor, "B q D"]) -> Queries:
        position = queries.position + patches
        return queries._replace(
            content=queries.content.expand_as(position), position=position,
            reference=queries.reference.expand(len(position), -1, -1), embedded=queries.embedded.expand_as(position),
        )  # fmt: skip


class PatchInContent(PatchQueries):
    """The patch is the first decoder embedding; object query and reference point do not change.

    Conditional DETR separates what a query looks for (content) from where it looks (position). A patch says what.
    """

    def carrying(self, queries: Queries, patches: Float[Tensor, "B q D"]) -> Queries:
        return queries._replace(
            content=queries.content + patches, position=queries.position.expand_as(patches),
            reference=queries.reference.expand(len(patches), -1, -1), embedded=queries.embedded.expand_as(patches),
        )  # fmt: skip


def with_patches(kind: type[QueryInit], carrying: type[PatchQueries]) -> type[PatchQueries]:
    """The variant of a `QueryInit` whose queries carry patches."""
    return type(f"{carrying.__name__}{kind.__name__}", (carrying, kind), {})


class FeatureHead(nn.Module):
    """(Decoded, Memory) → [L, B, Q, C]: predicts the backbone's features of the patch that a query has found."""

    predicts: ClassVar[str] = "features"
    export_precision = FLOAT32

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, channels, num_layers=2)

    def forward(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "L B Q C"]:
        return self.mlp(decoded.embeddings)
