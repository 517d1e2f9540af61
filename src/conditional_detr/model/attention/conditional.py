"""The attention of Conditional DETR, which compares content and positions separately."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conditional_detr.model.attention.kernels import (
    attend,
    attend_within_groups,
    attention_weights,
    blocked_keys,
    split_heads,
)
from conditional_detr.model.memory import Memory
from conditional_detr.model.precision import BF16_OR_HIGHER
from conditional_detr.model.queries import Queries


class SpatialProjection(nn.Linear):
    """A linear projection of positions."""

    export_precision = BF16_OR_HIGHER  # 8 bits are too coarse for the positions that queries attend to


class ContentSpatial(NamedTuple):
    """The projections that cross-attention compares, each [B, H, Q or N, d]."""

    content_query: Tensor
    content_key: Tensor
    spatial_query: Tensor
    spatial_key: Tensor


class ConditionalSelfAttention(nn.Module):
    """Self-attention of the queries: content and object query are projected separately, then added."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_content, self.q_position, self.k_content, self.k_position, self.v, self.out = (
            nn.Linear(dim, dim) for _ in range(6)
        )

    def forward(self, queries: Queries) -> Float[Tensor, "_ Q D"]:
        query = self.q_content(queries.content) + self.q_position(queries.position)
        key = self.k_content(queries.content) + self.k_position(queries.position)
        projected, dropout = (query, key, self.v(queries.content)), self.dropout if self.training else 0.0
        return self.out(attend_within_groups(projected, self.num_heads, queries.groups, queries.blocked, dropout))


class ConditionalCrossAttention(nn.Module):
    """softmax((c_q·c_k + p_q·p_k) / √2d) v: content and positions are compared separately in each head (section 3.3)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        maps = nn.Linear, SpatialProjection, nn.Linear, SpatialProjection, nn.Linear, nn.Linear
        self.q_content, self.q_spatial, self.k_content, self.k_spatial, self.v, self.out = (kind(dim, dim) for kind in maps)

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        c_q, c_k, p_q, p_k = self.project(queries, memory)
        query, key = torch.cat([c_q, p_q], dim=-1), torch.cat([c_k, p_k], dim=-1)  # in each head: q·k = c_q·c_k + p_q·p_k
        value = split_heads(self.v(memory.tokens), self.num_heads)
        blocked, dropout = blocked_keys(memory.is_padding), self.dropout if self.training else 0.0
        return self.out(attend(query, key, value, blocked, dropout, self.bias(queries, memory)))

    def bias(self, queries: Queries, memory: Memory) -> Float[Tensor, "B H Q N"] | None:
        """What is added to the logits of the spatial part; None = nothing, as in the paper."""

    def project(self, queries: Queries, memory: Memory) -> ContentSpatial:
        """Compute c_q, c_k, p_q and p_k, split into heads."""
        p_q, p_k = self.q_spatial(queries.spatial), self.k_spatial(memory.position).expand_as(memory.tokens)
        c_q, c_k = self.content(queries, memory, p_k)
        return ContentSpatial(*(split_heads(x, self.num_heads) for x in (c_q, c_k, p_q, p_k)))

    def content(self, queries: Queries, memory: Memory, p_k: Tensor) -> tuple[Tensor, Tensor]:
        """Compute c_q and c_k, before they are split into heads."""
        return self.q_content(queries.content), self.k_content(memory.tokens)

    def explain(self, queries: Queries, memory: Memory, chosen: Tensor) -> Mapping[str, Tensor]:
        """Attention maps of the chosen queries of the first image: "spatial", "content" and "combined", each [k, H, N].

        Both parts are divided by the same √2d as their sum. The normalised product of the spatial and content maps is thus
        the combined map.
        """
        c_q, c_k, p_q, p_k = self.project(queries, memory)
        c_q, p_q = c_q[:, :, chosen], p_q[:, :, chosen]
        bias = self.bias(queries, memory)
        bias = None if bias is None else bias[:, :, chosen]
        both = torch.cat([c_q, p_q], dim=-1), torch.cat([c_k, p_k], dim=-1)
        blocked, width = blocked_keys(memory.is_padding), both[1].shape[-1]
        compared = {"spatial": (p_q, p_k, bias), "content": (c_q, c_k, None), "combined": (*both, bias)}
        return {
            name: attention_weights(query, key, blocked, width, added)[0].transpose(0, 1)
            for name, (query, key, added) in compared.items()
        }


class FirstConditionalCrossAttention(ConditionalCrossAttention):
    """Cross-attention of the first layer.

    The decoder embedding is still zero there, so the object query is added to c_q and the position to c_k.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(dim, num_heads, dropout)
        self.q_position = nn.Linear(dim, dim)

    def content(self, queries: Queries, memory: Memory, p_k: Tensor) -> tuple[Tensor, Tensor]:
        return self.q_content(queries.content) + self.q_position(queries.position), self.k_content(memory.tokens) + p_k
