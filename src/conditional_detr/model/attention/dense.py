"""The attention of DETR, which adds content and position before comparing them."""

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
    """softmax(W_q(x + position) · W_k(y + position) / √d) W_v y in each head (DETR)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    @property
    def joint_projections(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        """The projections that DETR stores as one matrix [3D, D]."""
        return self.q, self.k, self.v

    def among(
        self,
        tokens: Float[Tensor, "_ N D"],
        position: Float[Tensor, "_ N D"],
        blocked: Bool[Tensor, "..."] | None,
        groups: int = 1,
    ) -> Float[Tensor, "_ N D"]:
        """Self-attention. The position is added to queries and keys, but not to values."""
        placed = tokens + position
        projected, dropout = (self.q(placed), self.k(placed), self.v(tokens)), self.dropout if self.training else 0.0
        return self.out(attend_within_groups(projected, self.num_heads, groups, blocked, dropout))


class DenseAttention(AdditiveAttention):
    """Self-attention of the memory: every cell attends to all cells that are not padding."""

    def forward(self, memory: Memory) -> Float[Tensor, "B N D"]:
        return self.among(memory.tokens, memory.position, blocked_keys(memory.is_padding))


class AdditiveSelfAttention(AdditiveAttention):
    """Self-attention of the queries. The object query serves as their position."""

    def forward(self, queries: Queries) -> Float[Tensor, "_ Q D"]:
        return self.among(queries.content, queries.position, queries.blocked, queries.groups)


class AdditiveCrossAttention(AdditiveAttention):
    """Cross-attention of the queries to the memory. Positions are not part of the values."""

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        query, content_key, spatial_key = self.project(queries, memory)
        value = split_heads(self.v(memory.tokens), self.num_heads)
        blocked = blocked_keys(memory.is_padding)
        return self.out(attend(query, content_key + spatial_key, value, blocked, self.dropout if self.training else 0.0))

    def project(self, queries: Queries, memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the query and both parts of the key, split into heads.

        The key W_k(memory + position) is the sum of a content part, W_k memory + b, and a spatial part, W_k position.
        """
        spatial_key = F.linear(memory.position, self.k.weight).expand_as(memory.tokens)
        projected = self.q(queries.content + queries.position), self.k(memory.tokens), spatial_key
        query, content_key, spatial_key = (split_heads(x, self.num_heads) for x in projected)
        return query, content_key, spatial_key

    def explain(self, queries: Queries, memory: Memory, chosen: Tensor) -> Mapping[str, Tensor]:
        """Attention maps of the chosen queries of the first image: "spatial", "content" and "combined", each [k, H, N].

        The query has no separate parts: it is compared with the spatial part of the key, with the content part and with
        their sum.
        """
        query, content_key, spatial_key = self.project(queries, memory)
        chosen_query, blocked, width = query[:, :, chosen], blocked_keys(memory.is_padding), query.shape[-1]
        keys = {"spatial": spatial_key, "content": content_key, "combined": content_key + spatial_key}
        return {name: attention_weights(chosen_query, key, blocked, width)[0].transpose(0, 1) for name, key in keys.items()}
