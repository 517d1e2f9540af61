"""DETR's attention: content and position are added before they are compared."""

from collections.abc import Mapping

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.attention.kernels import (
    attend,
    attend_within_groups,
    attention_weights,
    blocked_keys,
    split_heads,
)
from conditional_detr.model.memory import Memory
from conditional_detr.model.queries import Queries


class AdditiveAttention(nn.Module):
    """softmax(W_q(x + position) · W_k(y + position) / √d) W_v y, by heads (DETR)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    @property
    def joint_projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """What DETR holds as one matrix [3D, D]."""
        return self.q, self.k, self.v

    def among(
        self,
        tokens: Float[Tensor, "_ N D"],
        position: Float[Tensor, "_ N D"],
        blocked: Bool[Tensor, "..."] | None,
        groups: int = 1,
    ) -> Float[Tensor, "_ N D"]:
        """Self-attention: queries and keys carry the position, values do not."""
        placed = tokens + position
        projected, dropout = (self.q(placed), self.k(placed), self.v(tokens)), self.dropout if self.training else 0.0
        return self.out(attend_within_groups(projected, self.num_heads, groups, blocked, dropout))


class DenseAttention(AdditiveAttention):
    """Every cell of the memory attends to every other one; padding is left out."""

    def forward(self, memory: Memory) -> Float[Tensor, "B N D"]:
        return self.among(memory.tokens, memory.position, blocked_keys(memory.is_padding))


class AdditiveSelfAttention(AdditiveAttention):
    """Queries attend to each other; the object query is their position."""

    def forward(self, queries: Queries) -> Float[Tensor, "_ Q D"]:
        return self.among(queries.content, queries.position, queries.blocked, queries.groups)


class AdditiveCrossAttention(AdditiveAttention):
    """Queries attend to the memory; only the memory's tokens enter the values."""

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        query, content_key, spatial_key = self.project(queries, memory)
        value = split_heads(self.v(memory.tokens), self.num_heads)
        blocked = blocked_keys(memory.is_padding)
        return self.out(attend(query, content_key + spatial_key, value, blocked, self.dropout if self.training else 0.0))

    def project(self, queries: Queries, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Query and both parts of the key, by heads: W_k(memory + position) = (W_k memory + b) + W_k position."""
        spatial_key = F.linear(memory.position, self.k.weight).expand_as(memory.tokens)
        projected = self.q(queries.content + queries.position), self.k(memory.tokens), spatial_key
        query, content_key, spatial_key = (split_heads(x, self.num_heads) for x in projected)
        return query, content_key, spatial_key

    def explain(self, queries: Queries, memory: Memory, chosen: Tensor) -> Mapping[str, Tensor]:
        """Attention of the chosen queries of the first image, [k, H, N] each: one query is compared with either key."""
        query, content_key, spatial_key = self.project(queries, memory)
        chosen_query, blocked, width = query[:, :, chosen], blocked_keys(memory.is_padding), query.shape[-1]
        keys = {"spatial": spatial_key, "content": content_key, "combined": content_key + spatial_key}
        return {name: attention_weights(chosen_query, key, blocked, width)[0].transpose(0, 1) for name, key in keys.items()}
