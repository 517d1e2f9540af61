"""The encoder of DETR: layers of self-attention over the memory."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.memory import Memory, joined


class FeedForward(nn.Module):
    """x ← norm(x + W₂ relu(W₁ x)), with dropout on the hidden units and on the output."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm(x + self.dropout(self.linear2(hidden)))


class PreNormFeedForward(FeedForward):
    """x ← x + W₂ relu(W₁ norm(x)), with dropout as in `FeedForward`."""

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        hidden = self.dropout(F.relu(self.linear1(self.norm(x))))
        return x + self.dropout(self.linear2(hidden))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by a residual connection and a layer norm.

    Parameters
    ----------
    self_attention : Memory → [B, N, D]
    dim, feedforward_dim, dropout : D, width of the hidden layer, dropout probability
    """

    feedforward_type = FeedForward

    def __init__(self, self_attention: nn.Module, dim: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = self.feedforward_type(dim, feedforward_dim, dropout)

    def forward(self, memory: Memory) -> Memory:
        tokens = self.norm(memory.tokens + self.dropout(self.self_attention(memory)))
        return memory._replace(tokens=self.feedforward(tokens))


class PreNormEncoderLayer(EncoderLayer):
    """Self-attention and feed-forward, each preceded by a layer norm and followed by a residual connection (UP-DETR)."""

    feedforward_type = PreNormFeedForward

    def forward(self, memory: Memory) -> Memory:
        attended = self.self_attention(memory._replace(tokens=self.norm(memory.tokens)))
        return memory._replace(tokens=self.feedforward(memory.tokens + self.dropout(attended)))


class LevelEmbedding(nn.Module):
    """Adds a learned vector to the positions of the cells of each level (Deformable DETR).

    Parameters
    ----------
    levels, dim : number of levels S, and D
    scale : standard deviation of the initial vectors: 1 in Deformable DETR
    """

    def __init__(self, levels: int, dim: int, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * torch.randn(levels, dim))

    def forward(self, memory: Memory) -> Memory:
        placed = [x + own for x, own in zip(memory.levels(memory.position), self.weight, strict=True)]
        return memory._replace(position=joined(placed))


class Encoder(nn.Module):
    """A stack of encoder layers. Each layer adds the position embedding again.

    Parameters
    ----------
    layers : encoder layers
    level_embedding : Memory → Memory, applied before the first layer; None = nothing
    norm : layer norm after the last layer; None = nothing, as in DETR
    """

    def __init__(
        self, layers: Iterable[EncoderLayer], level_embedding: nn.Module | None = None, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.level_embedding = nn.Identity() if level_embedding is None else level_embedding
        self.layers = nn.ModuleList(layers)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, memory: Memory) -> Memory:
        memory = self.level_embedding(memory)
        for layer in self.layers:
            memory = layer(memory)
        return memory._replace(tokens=self.norm(memory.tokens))


class CoarsestEncoder(Encoder):
    """A stack of encoder layers for the coarsest level. Its result is then passed on to the finer levels.

    Attention between the cells of a fine level would be expensive, and the coarsest level knows what an image shows.

    Source: the idea of RT-DETR (Zhao et al., CVPR 2024), whose encoder has one layer of attention on its coarsest level.

    Parameters
    ----------
    layers, level_embedding, norm : as for `Encoder`
    fusion : Memory → Memory, passes the coarsest level on to the finer ones
    """

    def __init__(
        self, layers: Iterable[EncoderLayer], level_embedding: nn.Module | None, norm: nn.Module | None, fusion: nn.Module
    ) -> None:
        super().__init__(layers, level_embedding, norm)
        self.fusion = fusion

    def forward(self, memory: Memory) -> Memory:
        memory = self.level_embedding(memory)
        coarsest = memory.only(-1)
        for layer in self.layers:
            coarsest = layer(coarsest)
        *fine_levels, _ = memory.levels(memory.tokens)
        fused: Memory = self.fusion(memory._replace(tokens=joined([*fine_levels, self.norm(coarsest.tokens)])))
        return fused


ENCODER_LAYERS = {"post": EncoderLayer, "pre": PreNormEncoderLayer}  # by the value of `norm`
