"""Where a query looks from, and how its content bends space.

Two of the four questions that a variant of the model answers. A variant is a class and a line in a dict below.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conditional_detr.model.encoder import Memory
from conditional_detr.model.heads.box import MLP, FocalClassHead
from conditional_detr.model.positional import inverse_sigmoid, sine_embedding

Points = Float[Tensor, "*_ Q D"]
Content = Float[Tensor, "_ Q D"]  # a batch of 1 where it is the same for all images

FILLER_SCORE = -1e4  # hotter than padding, colder than any cell
IDENTITY_INIT_SCALE = 0.1  # how much of its random start Λ_q keeps where it starts at the identity


class ReferencePoints(nn.Module):
    """Where queries look from at first."""

    def heat(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"] | None:
        """What the choice of places goes by, if the image decides."""
        return None

    def forward(self, object_query: Float[Tensor, "Q D"], memory: Memory | None = None) -> Float[Tensor, "*_ Q 2"]:
        """s, before the sigmoid."""
        raise NotImplementedError

    def tell(self, object_query: Float[Tensor, "Q D"], points: Float[Tensor, "*_ Q 2"]) -> Float[Tensor, "*_ Q D"]:
        """The object queries, knowing their points; of most forms a point is a function of its query, or its own."""
        return object_query


class PredictedReferencePoints(ReferencePoints):
    """s = MLP(o_q): each object query's reference point, before the sigmoid (section 3.3, eq. 4)."""

    def __init__(self, dim: int, num_queries: int) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, 2, num_layers=2)

    def forward(self, object_query: Float[Tensor, "Q D"], memory: Memory | None = None) -> Float[Tensor, "Q 2"]:
        return self.mlp(object_query)


class LearnedReferencePoints(ReferencePoints):
    """s is a free parameter of each query; at first the points lie evenly over the image (section 4.3)."""

    def __init__(self, dim: int, num_queries: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.rand(num_queries, 2).logit(eps=0.01))

    def forward(self, object_query: Float[Tensor, "Q D"], memory: Memory | None = None) -> Float[Tensor, "Q 2"]:
        return self.points.repeat(len(object_query) // len(self.points), 1)  # of every group the same


class OriginReferencePoints(ReferencePoints):
    """s = (0, 0) for all queries: none has a place of its own (section 4.3)."""

    def __init__(self, dim: int, num_queries: int) -> None:
        super().__init__()

    def forward(self, object_query: Float[Tensor, "Q D"], memory: Memory | None = None) -> Float[Tensor, "Q 2"]:
        return object_query.new_zeros(object_query.shape[0], 2)


class EncoderReferencePoints(ReferencePoints):
    """s is where the encoder's tokens look most like the centre of an object: the Q hottest cells, the hottest first.

    So an image's queries start at its objects, and need not be spread over all images' places. As a point is no function of
    its object query any more, its embedding is added to it: queries must know where the others look. Where an image has fewer
    cells than there are queries, the rest look from its middle.

    Source: the idea of Conditional DETR V2 (Chen et al., 2022) and of DINO's mixed query selection (Zhang et al., ICLR 2023).
    """

    def __init__(self, dim: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.scorer = MLP(dim, dim, 1, num_layers=2)
        self.place = nn.Linear(dim, dim)
        nn.init.constant_(self.scorer.last.bias, FocalClassHead.PRIOR_LOGIT)

    def heat(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
        scores: Tensor = self.scorer(tokens)
        return scores[..., 0]

    def forward(self, object_query: Float[Tensor, "Q D"], memory: Memory | None = None) -> Float[Tensor, "B Q 2"]:
        assert memory is not None
        assert memory.heat is not None
        heat, centres = memory.heat.detach(), memory.centres.expand(memory.tokens.shape[0], -1, -1)
        if memory.is_padding is not None:
            heat = heat.masked_fill(memory.is_padding, -torch.inf)
        spare = self.num_queries
        heat = torch.cat([heat, heat.new_full((heat.shape[0], spare), FILLER_SCORE)], dim=1)
        centres = torch.cat([centres, centres.new_full((centres.shape[0], spare, 2), 0.5)], dim=1)
        hottest = heat.topk(self.num_queries, dim=1).indices
        chosen = centres.gather(1, hottest[..., None].expand(-1, -1, 2))
        return inverse_sigmoid(chosen).repeat(1, object_query.shape[0] // self.num_queries, 1)  # of every group the same

    def tell(self, object_query: Float[Tensor, "Q D"], points: Float[Tensor, "B Q 2"]) -> Float[Tensor, "B Q D"]:
        told: Tensor = object_query + self.place(sine_embedding(points, object_query.shape[-1]))
        return told


class IdentityLambda(nn.Module):
    """Λ_q = 1: content does not bend space."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()

    def forward(self, content: Content, embedded_points: Points) -> Content:
        return embedded_points.expand_as(content)

    def init_identity(self) -> None:
        """It is there."""


class FactorLambda(nn.Module):
    """Λ_q multiplies by predicted factors: one for all entries of the point's embedding, or one an entry."""

    def __init__(self, dim: int, factors: int) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, factors, num_layers=2)

    def forward(self, content: Content, embedded_points: Points) -> Content:
        return self.mlp(content) * embedded_points

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

    def forward(self, content: Content, embedded_points: Points) -> Content:
        matrices = self.mlp(content).view(*content.shape[:-1], self.blocks, self.width, self.width)
        vectors = embedded_points.reshape(*embedded_points.shape[:-1], self.blocks, self.width, 1)
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
    """p_q from the embedded reference points p_s, the decoder embedding f and the content c after self-attention.

    Parameters
    ----------
    lambda_q : Λ_q; kept by those that use it
    """

    def __init__(self, lambda_q: nn.Module) -> None:
        super().__init__()

    def forward(self, embedded_points: Points, decoder_embedding: Content, content: Content) -> Content:
        raise NotImplementedError

    def first(self, embedded_points: Points, decoder_embedding: Content, content: Content) -> Content:
        """That of the first layer, where nothing has been decoded yet: p_q = p_s."""
        return embedded_points.expand_as(decoder_embedding)


class PointSpatialQuery(SpatialQuery):
    """p_q = p_s: the reference point alone (CSQ-P)."""

    forward = SpatialQuery.first


class ConditionalSpatialQuery(SpatialQuery):
    """p_q = Λ_q p_s, with Λ_q from the decoder embedding of the layer before (eq. 2)."""

    def __init__(self, lambda_q: nn.Module) -> None:
        super().__init__(lambda_q)
        self.lambda_q = lambda_q

    def forward(self, embedded_points: Points, decoder_embedding: Content, content: Content) -> Content:
        return self.lambda_q(decoder_embedding, embedded_points)


class IntermediateSpatialQuery(ConditionalSpatialQuery):
    """p_q = Λ_q p_s, with Λ_q from the content after this layer's self-attention (CSQ-I)."""

    def forward(self, embedded_points: Points, decoder_embedding: Content, content: Content) -> Content:
        return self.lambda_q(content, embedded_points)


class LambdaSpatialQuery(ConditionalSpatialQuery):
    """p_q = λ_q: the transform alone, without a point to act on (CSQ-T)."""

    def forward(self, embedded_points: Points, decoder_embedding: Content, content: Content) -> Content:
        return self.lambda_q(decoder_embedding, torch.ones_like(embedded_points))

    first = forward


class ContentSpatialQuery(SpatialQuery):
    """p_q = f: the decoder embedding alone, zeros in the first layer (CSQ-C)."""

    def forward(self, embedded_points: Points, decoder_embedding: Content, content: Content) -> Content:
        return decoder_embedding

    first = forward


REFERENCE_POINTS = {
    "predicted": PredictedReferencePoints,
    "learned": LearnedReferencePoints,
    "origin": OriginReferencePoints,
    "encoder": EncoderReferencePoints,
}
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
}
