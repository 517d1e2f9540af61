"""Initial queries and their reference points.

To add a variant, write a class and add it to `REFERENCE_POINTS`.
"""

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.heads.box import relative_to_reference
from conditional_detr.model.heads.classification import PRIOR_LOGIT
from conditional_detr.model.memory import Memory, joined
from conditional_detr.model.mlp import MLP
from conditional_detr.model.positional import inverse_sigmoid, sine_embedding
from conditional_detr.model.precision import FLOAT32
from conditional_detr.model.queries import Queries

# Score of the entries that are appended in case an image has too few cells: above padding (−inf), below every real cell.
FILLER_SCORE = -1e4
NEIGHBOUR_PENALTY = 2.0  # what a cell beside one with a higher score loses, in logits
LARGEST_START = 0.5  # largest width and height that a box starts with, as in the paper; near 1 a sigmoid has no gradient


class Initial(NamedTuple):
    """The queries before the first layer.

    Attributes
    ----------
    queries : queries with zero content
    objectness : [B, N], logits for how near each memory cell is to the centre of an object; None if the reference points are
        not chosen by this score
    cell_boxes : [B, N, 4], the box predicted from each cell, (cx, cy, w, h) relative to the image; None if there is none
    """

    queries: Queries
    objectness: Tensor | None = None
    cell_boxes: Tensor | None = None


class ZeroContent(nn.Module):
    """The decoder embedding starts as zeros, as in the paper."""

    def __init__(self, dim: int, num_queries: int) -> None:
        super().__init__()

    def forward(self) -> None:
        """Return None, which stands for zeros."""


class LearnedContent(nn.Module):
    """The decoder embedding starts as a learned parameter of each query (Deformable DETR)."""

    def __init__(self, dim: int, num_queries: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_queries, dim))

    def forward(self) -> Float[Tensor, "1 Q D"]:
        return self.weight[None]


FIRST_CONTENT = {False: ZeroContent, True: LearnedContent}  # by the value of `learned_content`


class QueryInit(nn.Module):
    """Base class of modules (object queries o_q [Q, D], memory) → the queries before the first layer.

    Parameters
    ----------
    dim, num_queries : D and Q
    content : module () → the first decoder embedding [1, Q, D]; None = zeros
    """

    export_precision = FLOAT32
    gives_boxes: ClassVar[bool] = False  # whether the references are boxes, with a size

    def __init__(self, dim: int, num_queries: int, content: nn.Module | None = None) -> None:
        super().__init__()
        self.dim, self.num_queries = dim, num_queries
        self.content = ZeroContent(dim, num_queries) if content is None else content

    def forward(self, object_query: Float[Tensor, "Q D"], memory: Memory) -> Initial:
        reference = self.reference_logits(object_query).sigmoid()
        return Initial(Queries.start(object_query[None], reference[None], self.content()))

    def extra_group(self, object_query: Float[Tensor, "Q D"], memory: Memory, first: Initial) -> Queries:
        """Queries of another group, with object queries of its own, for training. `first` is the model's own group."""
        return self(object_query, memory).queries

    def reference_logits(self, object_query: Float[Tensor, "Q D"]) -> Float[Tensor, "Q 2"]:
        """Reference points s before the sigmoid."""
        raise NotImplementedError


class PredictedReferencePoints(QueryInit):
    """s = MLP(o_q): the reference point is predicted from the object query (section 3.3)."""

    def __init__(self, dim: int, num_queries: int, content: nn.Module | None = None) -> None:
        super().__init__(dim, num_queries, content)
        self.mlp = MLP(dim, dim, 2, num_layers=2)

    def reference_logits(self, object_query: Float[Tensor, "Q D"]) -> Float[Tensor, "Q 2"]:
        return self.mlp(object_query)


class ReferenceLinear(nn.Linear):
    """The linear layer of reference points, trained at a tenth of the learning rate (Deformable DETR)."""

    lr_scale = 0.1

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise the bias with zeros."""
        nn.init.zeros_(self.bias)


class LinearReferencePoints(QueryInit):
    """s = W o_q + b: one linear layer predicts the reference point from the object query (Deformable DETR)."""

    def __init__(self, dim: int, num_queries: int, content: nn.Module | None = None) -> None:
        super().__init__(dim, num_queries, content)
        self.linear = ReferenceLinear(dim, 2)

    def reference_logits(self, object_query: Float[Tensor, "Q D"]) -> Float[Tensor, "Q 2"]:
        return self.linear(object_query)


class LearnedReferencePoints(QueryInit):
    """s is a learned parameter of each query, initialised uniformly over the image (section 4.3)."""

    def __init__(self, dim: int, num_queries: int, content: nn.Module | None = None) -> None:
        super().__init__(dim, num_queries, content)
        self.points = nn.Parameter(torch.rand(num_queries, 2).logit(eps=0.01))

    def reference_logits(self, object_query: Float[Tensor, "Q D"]) -> Float[Tensor, "Q 2"]:
        return self.points


class OriginReferencePoints(QueryInit):
    """s = (0, 0) for all queries: all share the same reference point (section 4.3)."""

    def reference_logits(self, object_query: Float[Tensor, "Q D"]) -> Float[Tensor, "Q 2"]:
        return object_query.new_zeros(object_query.shape[0], 2)


class EncoderReferencePoints(QueryInit):
    """Reference points are the centres of the Q memory cells with the highest objectness, the highest first.

    A scorer predicts from the token of each cell how near it is to the centre of an object. The queries of an image thus start
    at its objects instead of being spread over the image. Cells beside one with a higher score come later, see `prefer_peaks`.
    The reference point no longer follows from the object query, but queries need to know each other's positions in
    self-attention. Therefore the embedding of the point is added to the object query. If an image has fewer cells than there
    are queries, the remaining queries start at the middle of the image.

    Source: the idea of Conditional DETR V2 (Chen et al., 2022) and of DINO's mixed query selection (Zhang et al., ICLR 2023).
    """

    def __init__(self, dim: int, num_queries: int, content: nn.Module | None = None) -> None:
        super().__init__(dim, num_queries, content)
        self.scorer = MLP(dim, dim, 1, num_layers=2)
        self.place = nn.Linear(dim, dim)
        nn.init.constant_(self.scorer.last.bias, PRIOR_LOGIT)

    def forward(self, object_query: Float[Tensor, "Q D"], memory: Memory) -> Initial:
        objectness = self.scorer(memory.tokens.float())[..., 0]
        reference = inverse_sigmoid(self.highest_cells(objectness.detach(), self.candidates(memory), memory)).sigmoid()
        return Initial(self.start(object_query, reference), objectness)

    def extra_group(self, object_query: Float[Tensor, "Q D"], memory: Memory, first: Initial) -> Queries:
        return self.start(object_query, first.queries.reference)  # which do not depend on object queries

    def start(self, object_query: Float[Tensor, "Q D"], reference: Float[Tensor, "B Q R"]) -> Queries:
        """Queries at these references."""
        return Queries.start(object_query + self.embedded(reference), reference, self.content())

    def embedded(self, reference: Float[Tensor, "B Q R"]) -> Float[Tensor, "B Q D"]:
        """What is added to the object queries, so that they know their reference points."""
        return self.place(sine_embedding(reference, self.dim))

    def candidates(self, memory: Memory) -> Float[Tensor, "_ N R"]:
        """The reference point or box of each cell."""
        return memory.centres

    def highest_cells(
        self, scores: Float[Tensor, "B N"], references: Float[Tensor, "_ N R"], memory: Memory
    ) -> Float[Tensor, "B Q R"]:
        """References of the Q cells with the highest scores, filled up with the middle of the image if there are too few."""
        references = references.expand(scores.shape[0], -1, -1)
        if memory.is_padding is not None:
            scores = scores.masked_fill(memory.is_padding, -torch.inf)
        scores = prefer_peaks(scores, memory)
        scores = torch.cat([scores, scores.new_full((scores.shape[0], self.num_queries), FILLER_SCORE)], dim=1)
        middle = references.new_full((references.shape[0], self.num_queries, references.shape[-1]), 0.5)
        highest = scores.topk(self.num_queries, dim=1).indices
        return torch.cat([references, middle], dim=1).gather(1, highest[..., None].expand(-1, -1, references.shape[-1]))


def prefer_peaks(scores: Float[Tensor, "B N"], memory: Memory) -> Float[Tensor, "B N"]:
    """Lower the scores of cells that have a neighbour with a higher score, to the left or right, above or below.

    All cells around the centre of an object score high. They would take the places of other objects.

    Source: the idea of the peaks of CenterNet (Zhou et al., 2019, section 4), which drops such cells.
    """
    levels = []
    for level, shape in zip(memory.levels(scores), memory.shapes, strict=True):
        x = level.view(-1, *shape)
        around = F.pad(x, (1, 1, 1, 1), value=-torch.inf)
        in_row = torch.maximum(around[:, 1:-1, :-2], around[:, 1:-1, 2:])
        in_column = torch.maximum(around[:, :-2, 1:-1], around[:, 2:, 1:-1])
        levels.append((x - NEIGHBOUR_PENALTY * (x < torch.maximum(in_row, in_column))).flatten(1))
    return joined(levels)


class EncoderReferenceBoxes(EncoderReferencePoints):
    """As `EncoderReferencePoints`, but for several levels: the level of a cell also gives the size that a box starts with.

    Source: two-stage Deformable DETR (Zhu et al., ICLR 2021) for sizes by level.
    """

    gives_boxes = True

    def __init__(self, dim: int, num_queries: int, content: nn.Module | None = None) -> None:
        super().__init__(dim, num_queries, content)
        self.size = nn.Linear(dim, dim)

    def embedded(self, reference: Float[Tensor, "B Q 4"]) -> Float[Tensor, "B Q D"]:
        point, size = reference[..., :2], reference[..., 2:]
        return self.place(sine_embedding(point, self.dim)) + self.size(sine_embedding(size, self.dim))

    def candidates(self, memory: Memory) -> Float[Tensor, "_ N 4"]:
        return torch.cat([memory.centres, memory.typical_sizes.clamp(max=LARGEST_START)], dim=-1)


class EncoderBoxes(EncoderReferenceBoxes):
    """As `EncoderReferenceBoxes`, but each cell also predicts a box, and queries start from the boxes of the best cells.

    b = relative_to_reference(MLP(token), b_0), where b_0 lies at the cell and has the typical size of its level. The boxes are
    detached before the decoder, and have a loss of their own.

    Source: two-stage Deformable DETR (Zhu et al., ICLR 2021), with another box coding.
    """

    def __init__(self, dim: int, num_queries: int, content: nn.Module | None = None) -> None:
        super().__init__(dim, num_queries, content)
        self.box = MLP(dim, dim, 4, num_layers=3)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Start with the typical box of each cell."""
        nn.init.zeros_(self.box.last.weight)
        nn.init.zeros_(self.box.last.bias)

    def forward(self, object_query: Float[Tensor, "Q D"], memory: Memory) -> Initial:
        tokens = memory.tokens.float()
        objectness = self.scorer(tokens)[..., 0]
        boxes = relative_to_reference(self.box(tokens), self.candidates(memory))
        reference = self.highest_cells(objectness.detach(), boxes.detach(), memory)
        return Initial(self.start(object_query, reference), objectness, boxes)


REFERENCE_POINTS: dict[str, type[QueryInit]] = {
    "predicted": PredictedReferencePoints,
    "linear": LinearReferencePoints,
    "learned": LearnedReferencePoints,
    "origin": OriginReferencePoints,
    "encoder": EncoderReferencePoints,
    "encoder_boxes": EncoderBoxes,
}
REFERENCE_POINTS_OF_SEVERAL_LEVELS: dict[str, type[QueryInit]] = REFERENCE_POINTS | {"encoder": EncoderReferenceBoxes}
