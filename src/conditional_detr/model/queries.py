"""Where a query looks from, and how its content bends space.

Two of the four questions that a variant of the model answers. A variant is a class and a line in a dict below.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conditional_detr.model.heads import MLP


class PredictedReferencePoints(nn.Module):
    """s = MLP(o_q): each object query's reference point, before the sigmoid (section 3.3, eq. 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, 2, num_layers=2)

    def forward(self, object_query: Float[Tensor, "Q D"]) -> Float[Tensor, "Q 2"]:
        return self.mlp(object_query)


class DiagonalLambda(nn.Module):
    """Λ_q = diag(λ_q), λ_q = MLP(f): one factor an entry of the point's embedding (section 3.3)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, dim, num_layers=2)

    def forward(
        self, decoder_embedding: Float[Tensor, "B Q D"], embedded_points: Float[Tensor, "Q D"]
    ) -> Float[Tensor, "B Q D"]:
        return self.mlp(decoder_embedding) * embedded_points

    def start_at_identity(self) -> None:
        """Every factor starts near 1."""
        with torch.no_grad():
            self.mlp.last.weight.mul_(0.1)
            self.mlp.last.bias.fill_(1)


class PointSpatialQuery(nn.Module):
    """p_q = p_s: what the first layer uses, where nothing has been decoded yet."""

    def forward(
        self, embedded_points: Float[Tensor, "Q D"], decoder_embedding: Float[Tensor, "B Q D"]
    ) -> Float[Tensor, "B Q D"]:
        return embedded_points.expand_as(decoder_embedding)


class ConditionalSpatialQuery(nn.Module):
    """p_q = Λ_q p_s, with Λ_q from the decoder embedding of the layer before (eq. 2)."""

    def __init__(self, lambda_q: nn.Module) -> None:
        super().__init__()
        self.lambda_q = lambda_q

    def forward(
        self, embedded_points: Float[Tensor, "Q D"], decoder_embedding: Float[Tensor, "B Q D"]
    ) -> Float[Tensor, "B Q D"]:
        return self.lambda_q(decoder_embedding, embedded_points)


REFERENCE_POINTS = {"predicted": PredictedReferencePoints}
LAMBDA_Q = {"diagonal": DiagonalLambda}
SPATIAL_QUERIES = {"conditional": ConditionalSpatialQuery}
