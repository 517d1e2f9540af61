"""p_q, what a query compares the memory's positions with, and Λ_q, how its content transforms its reference point.

A variant is a class and a line in a table below.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conditional_detr.model.mlp import MLP
from conditional_detr.model.precision import NO_INTEGERS
from conditional_detr.model.queries import Queries

Content = Float[Tensor, "_ Q D"]  # a batch of 1 where it is the same for all images

IDENTITY_INIT_SCALE = 0.1  # of the last layer's random weights, where Λ_q starts near the identity


class IdentityLambda(nn.Module):
    """Λ_q = 1: content does not bend space."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()

    def forward(self, content: Content, p_s: Content) -> Content:
        return p_s.expand_as(content)

    def init_identity(self) -> None:
        """Nothing to initialise."""


class FactorLambda(nn.Module):
    """Λ_q multiplies by predicted factors: one for the whole embedding of the point, or one for each entry."""

    def __init__(self, dim: int, factors: int) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, factors, num_layers=2)

    def forward(self, content: Content, p_s: Content) -> Content:
        return self.mlp(content) * p_s

    def init_identity(self) -> None:
        """Every factor starts near 1."""
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
    """Λ_q is block-diagonal, a full matrix [D/blocks, D/blocks] each, all predicted from the content (figure 5)."""

    def __init__(self, dim: int, blocks: int) -> None:
        super().__init__()
        self.blocks, self.width = blocks, dim // blocks
        self.mlp = MLP(dim, dim, blocks * self.width**2, num_layers=2)

    def forward(self, content: Content, p_s: Content) -> Content:
        matrices = self.mlp(content).view(*content.shape[:-1], self.blocks, self.width, self.width)
        vectors = p_s.reshape(*p_s.shape[:-1], self.blocks, self.width, 1)
        return (matrices @ vectors).flatten(-3)

    def init_identity(self) -> None:
        """Every block starts near the identity."""
        init_near(self.mlp, torch.eye(self.width).flatten().repeat(self.blocks))


class FullLambda(BlockLambda):
    """Λ_q is one full matrix [D, D], predicted from the content (figure 5)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, blocks=1)


@torch.no_grad()
def init_near(mlp: MLP, value: Tensor) -> None:
    """What the network predicts starts near a value, whatever comes in."""
    mlp.last.weight.mul_(IDENTITY_INIT_SCALE)
    mlp.last.bias.copy_(value)


class SpatialQuery(nn.Module):
    """p_q of a layer: what the positions of the memory are compared with.

    Parameters
    ----------
    lambda_q : Λ_q; kept by the forms that use it
    """

    export_precision = NO_INTEGERS

    def __init__(self, lambda_q: nn.Module) -> None:
        super().__init__()

    def forward(self, queries: Queries, content: Content) -> Content | None:
        """p_q [_, Q, D], from queries whose content is still the decoder embedding f, and the content after self-attention."""
        raise NotImplementedError

    def first(self, queries: Queries, content: Content) -> Content | None:
        """That of the first layer, where nothing has been decoded yet: p_q = p_s."""
        return queries.embedded.expand_as(queries.content)

    def init_identity(self) -> None:
        """Let Λ_q, where there is one, start near the identity."""


class NoSpatialQuery(SpatialQuery):
    """None, for attention that has no use for one (DETR)."""

    def forward(self, queries: Queries, content: Content) -> None:
        return None

    first = forward


class PointSpatialQuery(SpatialQuery):
    """p_q = p_s: the reference point alone (CSQ-P)."""

    forward = SpatialQuery.first


class ConditionalSpatialQuery(SpatialQuery):
    """p_q = Λ_q p_s, with Λ_q from the decoder embedding of the layer before (eq. 2)."""

    def __init__(self, lambda_q: nn.Module) -> None:
        super().__init__(lambda_q)
        self.lambda_q = lambda_q

    def forward(self, queries: Queries, content: Content) -> Content:
        return self.lambda_q(queries.content, queries.embedded)

    def init_identity(self) -> None:
        self.lambda_q.init_identity()  # type: ignore[operator]


class IntermediateSpatialQuery(ConditionalSpatialQuery):
    """p_q = Λ_q p_s, with Λ_q from the content after this layer's self-attention (CSQ-I)."""

    def forward(self, queries: Queries, content: Content) -> Content:
        return self.lambda_q(content, queries.embedded)


class LambdaSpatialQuery(ConditionalSpatialQuery):
    """p_q = λ_q: the transform alone, without a point to act on (CSQ-T)."""

    def forward(self, queries: Queries, content: Content) -> Content:
        return self.lambda_q(queries.content, torch.ones_like(queries.embedded))

    first = forward


class ContentSpatialQuery(SpatialQuery):
    """p_q = f: the decoder embedding alone, zeros in the first layer (CSQ-C)."""

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
