"""The encoder of DETR: layers of self-attention over the memory."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.memory import Memory


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


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each followed by a residual connection and a layer norm.

    Parameters
    ----------
    self_attention : Memory → [B, N, D]
    dim, feedforward_dim, dropout : D, width of the hidden layer, dropout probability
    """

    def __init__(self, self_attention: nn.Module, dim: int, feedforward_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)

    def forward(self, memory: Memory) -> Memory:
        tokens = self.norm(memory.tokens + self.dropout(self.self_attention(memory)))
        return memory._replace(tokens=self.feedforward(tokens))


class Encoder(nn.Module):
    """A stack of encoder layers. Each layer adds the position embedding again, and there is no final norm."""

    def __init__(self, layers: Iterable[EncoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, memory: Memory) -> Memory:
        for layer in self.layers:
            memory = layer(memory)
        return memory
