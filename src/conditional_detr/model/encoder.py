"""DETR's encoder: dense self-attention over the cells of the feature map."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.attention.kernels import attend, split_heads


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


class AdditiveAttention(nn.Module):
    """DETR's attention among tokens: queries and keys carry the position, values do not."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(
        self,
        tokens: Float[Tensor, "B N D"],
        position: Float[Tensor, "*_ N D"],
        is_padding: Bool[Tensor, "B N"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        placed = tokens + position
        query, key, value = (split_heads(x, self.num_heads) for x in (self.q(placed), self.k(placed), self.v(tokens)))
        return self.out(attend(query, key, value, is_padding, self.dropout if self.training else 0.0))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a norm behind it."""

    def __init__(self, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = AdditiveAttention(dim, num_heads, dropout)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)

    def forward(
        self,
        memory: Float[Tensor, "B N D"],
        position: Float[Tensor, "_ N D"],
        is_padding: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B N D"]:
        memory = self.norm(memory + self.dropout(self.self_attention(memory, position, is_padding)))
        return self.feedforward(memory)


class Encoder(nn.Module):
    """A stack of layers; the position is added anew in each, and there is no closing norm."""

    def __init__(self, num_layers: int, dim: int, num_heads: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers))

    def forward(
        self,
        memory: Float[Tensor, "B N D"],
        position: Float[Tensor, "_ N D"],
        is_padding: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B N D"]:
        for layer in self.layers:
            memory = layer(memory, position, is_padding)
        return memory


class Memory(NamedTuple):
    """The encoder's output.

    Attributes
    ----------
    tokens : [B, N, D]
    points : [B or 1, N, 2], the lower right corner of each cell, relative to the unpadded image; it may lie outside
    is_padding : bool [B, N], or None where nothing is padded
    heat : [B, N], logits of how near each cell is to the centre of an object, where reference points are taken from it
    """

    tokens: Tensor
    points: Tensor
    is_padding: Tensor | None
    heat: Tensor | None = None

    @property
    def centres(self) -> Tensor:
        """Of each cell, as far as it lies in the unpadded image; [B or 1, N, 2]."""
        return (self.points - self.points[:, :1] + self.points.clamp(max=1)) / 2
