"""The spatial query p_q, which is compared with the positions of the memory, and the transform Λ_q.

Λ_q transforms the embedding of a query's reference point and is predicted from the decoder embedding of the query. To add a
variant, write a class and add it to `LAMBDA_Q` or `SPATIAL_QUERIES`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conditional_detr.model.mlp import MLP
from conditional_detr.model.precision import BF16_OR_HIGHER
from conditional_detr.model.queries import Queries

Content = Float[Tensor, "_ Q D"]  # the batch size is 1 if it is the same for all images

IDENTITY_INIT_SCALE = 0.1  # factor on the random weights of the last layer when Λ_q is initialised near the identity


class IdentityLambda(nn.Module):
    """Λ_q = 1: the embedding of the reference point is used as it is."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()

    def forward(self, content: Content, p_s: Content) -> Content:
        return p_s.expand_as(content)

    def init_identity(self) -> None:
        """Nothing to initialise."""


class FactorLambda(nn.Module):
    """Λ_q multiplies the embedding of the point by predicted factors: one for the complete vector, or one per entry."""

    def __init__(self, dim: int, factors: int) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, factors, num_layers=2)

    def forward(self, content: Content, p_s: Content) -> Content:
        return self.mlp(content) * p_s

    def init_identity(self) -> None:
        """Initialise so that every factor is near 1."""
        init_near(self.mlp, torch.ones(()))


class DiagonalLambda(FactorLambda):
    """Λ_q = diag(λ_q), λ_q = MLP(f) (section 3.3)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, factors=dim)


class ScalarLambda(FactorLambda):
    """Λ_q = λ_q · 1, λ_q = MLP(f) (figure 5)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, factors=1)


class BlockLambda(nn.Module):
    """Λ_q is block-diagonal. Each block is a full matrix [D/blocks, D/blocks] predicted from the content (figure 5)."""

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.blocks, self.width = blocks, dim // blocks
        self.mlp = MLP(dim, dim, blocks * self.width**2, num_layers=2)

    def forward(self, content: Content, p_s: Content) -> Content:
        matrices = self.mlp(content).view(*content.shape[:-1], self.blocks, self.width, self.width)
        vectors = p_s.reshape(*p_s.shape[:-1], self.blocks, self.width, 1)
        return (matrices @ vectors).flatten(-3)

    def init_identity(self) -> None:
        """Initialise so that every block is near the identity."""
        init_near(self.mlp, torch.eye(self.width).flatten().repeat(self.blocks))


class FullLambda(BlockLambda):
    """Λ_q is one full matrix [D, D], predicted from the content (figure 5)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, blocks=1)


@torch.no_grad()
def init_near(mlp: MLP, value: Tensor) -> None:
    """Initialise the last layer so that the output is near `value` for any input."""
    mlp.last.weight.mul_(IDENTITY_INIT_SCALE)
    mlp.last.bias.copy_(value)


class SpatialQuery(nn.Module):
    """Base class of modules that compute the spatial query p_q, which is compared with the positions of the memory.

    Parameters
    ----------
    lambda_q : the transform Λ_q; variants that do not use it drop it
    """

    export_precision = BF16_OR_HIGHER

    def __init__(self, lambda_q: nn.Module) -> None:
        super().__init__()

    def forward(self, queries: Queries, content: Content) -> Content | None:
        """Compute p_q [_, Q, D].

        Parameters
        ----------
        queries : queries whose content is still the decoder embedding f of the previous layer
        content : content after the self-attention of this layer
        """
        raise NotImplementedError

    def first(self, queries: Queries, content: Content) -> Content | None:
        """Compute p_q in the first layer, where the decoder embedding is still zero: p_q = p_s."""
        return queries.embedded.expand_as(queries.content)

    def init_identity(self) -> None:
        """Initialise Λ_q, if there is one, near the identity."""


class NoSpatialQuery(SpatialQuery):
    """No spatial query, for attention that does not use one (DETR)."""

    def forward(self, queries: Queries, content: Content) -> None:
        return None

    first = forward


class PointSpatialQuery(SpatialQuery):
    """p_q = p_s: only the reference point (CSQ-P)."""

    forward = SpatialQuery.first


class ConditionalSpatialQuery(SpatialQuery):
    """p_q = Λ_q p_s, with Λ_q predicted from the decoder embedding of the previous layer (section 3.3)."""

    def __init__(self, lambda_q: nn.Module) -> None:
        super().__init__(lambda_q)
        self.lambda_q = lambda_q

    def forward(self, queries: Queries, content: Content) -> Content:
        return self.lambda_q(queries.content, queries.embedded)

    def init_identity(self) -> None:
        self.lambda_q.init_identity()  # type: ignore[operator]


class IntermediateSpatialQuery(ConditionalSpatialQuery):
    """p_q = Λ_q p_s, with Λ_q predicted from the content after the self-attention of this layer (CSQ-I)."""

    def forward(self, queries: Queries, content: Content) -> Content:
        return self.lambda_q(content, queries.embedded)


class LambdaSpatialQuery(ConditionalSpatialQuery):
    """p_q = λ_q: only the transform, without a reference point (CSQ-T)."""

    def forward(self, queries: Queries, content: Content) -> Content:
        return self.lambda_q(queries.content, torch.ones_like(queries.embedded))

    first = forward


class ContentSpatialQuery(SpatialQuery):
    """p_q = f: only the decoder embedding, which is zero in the first layer (CSQ-C)."""

    def forward(self, queries: Queries, content: Content) -> Content:
        return queries.content

    first = forward


LAMBDA_Q = {
    "diagonal": DiagonalLambda,
    "identity": IdentityLambda,
    "scalar": ScalarLambda,
    "block": BlockLambda,
    "full": FullLambda,
}
SPATIAL_QUERIES = {
    "conditional": ConditionalSpatialQuery,
    "intermediate": IntermediateSpatialQuery,
    "point": PointSpatialQuery,
    "lambda": LambdaSpatialQuery,
    "content": ContentSpatialQuery,
    "none": NoSpatialQuery,
}
