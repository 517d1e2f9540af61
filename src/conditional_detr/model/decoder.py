"""The decoder: Conditional DETR's, whose spatial query is conditioned on the decoder embedding, and DETR's."""

from collections.abc import Callable
from itertools import chain, repeat
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.attention.kernels import Parts, add, attend, concatenate, split_heads
from conditional_detr.model.encoder import AdditiveAttention, FeedForward
from conditional_detr.model.positional import sine_embedding
from conditional_detr.model.spatial_query import Content, Points, SpatialQuery

ObjectQuery = Float[Tensor, "*_ Q D"]  # for all images the same, or of each its own
MemoryCells = Float[Tensor, "B N D"]
Position = Float[Tensor, "_ N D"]
Compared = tuple[Float[Tensor, "_ H Q w"], Float[Tensor, "B H N w"]]  # queries and keys, head by head


class ConditionalSelfAttention(nn.Module):
    """Queries look at each other: content and object query have projections of their own, and are added."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_content, self.q_position, self.k_content, self.k_position, self.v, self.out = (
            nn.Linear(dim, dim) for _ in range(6)
        )

    def forward(self, decoder_embedding: Content, object_query: ObjectQuery) -> Content:
        query = self.q_content(decoder_embedding) + self.q_position(object_query)
        key = self.k_content(decoder_embedding) + self.k_position(object_query)
        query, key, value = (split_heads(x, self.num_heads) for x in (query, key, self.v(decoder_embedding)))
        return self.out(attend(query, key, value, dropout=self.dropout if self.training else 0.0))


class CrossAttention(nn.Module):
    """Queries look at the memory: softmax(q·k / √width) v, with q and k from what `parts` compares.

    Only the memory enters the values; the position never does.
    """

    v: nn.Linear
    out: nn.Linear

    def __init__(self, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout

    def parts(
        self,
        content: Content,
        object_query: ObjectQuery,
        spatial_query: Content,
        memory: MemoryCells,
        position: Position,
    ) -> Parts:
        """Projected queries and keys, by heads: what `forward` attends with and what an explanation shows."""
        raise NotImplementedError

    def join(self, parts: Parts) -> Compared:
        """Query and key whose inner product is the sum of both parts' products."""
        raise NotImplementedError

    def forward(
        self,
        content: Content,
        object_query: ObjectQuery,
        spatial_query: Content,
        memory: MemoryCells,
        position: Position,
        is_padding: Bool[Tensor, "B N"] | None,
    ) -> Content:
        query, key = self.join(self.parts(content, object_query, spatial_query, memory, position))
        value = split_heads(self.v(memory), self.num_heads)
        return self.out(attend(query, key, value, is_padding, self.dropout if self.training else 0.0))


class ConditionalCrossAttention(CrossAttention):
    """softmax((c_q·c_k + p_q·p_k) / √2d) v: content and space are compared apart, head by head (eq. 5)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(num_heads, dropout)
        self.q_content, self.q_spatial, self.k_content, self.k_spatial, self.v, self.out = (
            nn.Linear(dim, dim) for _ in range(6)
        )

    def parts(
        self,
        content: Content,
        object_query: ObjectQuery,
        spatial_query: Content,
        memory: MemoryCells,
        position: Position,
    ) -> Parts:
        spatial_key = self.k_spatial(position).expand_as(memory)
        content_query, content_key = self.compare_content(content, object_query, memory, spatial_key)
        compared = content_query, content_key, self.q_spatial(spatial_query), spatial_key
        return Parts(*(split_heads(x, self.num_heads) for x in compared))

    def compare_content(
        self,
        content: Content,
        object_query: ObjectQuery,
        memory: MemoryCells,
        spatial_key: MemoryCells,
    ) -> tuple[Content, MemoryCells]:
        return self.q_content(content), self.k_content(memory)

    def join(self, parts: Parts) -> Compared:
        return concatenate(parts)


class FirstConditionalCrossAttention(ConditionalCrossAttention):
    """The first layer's: nothing is decoded yet, so the object query and the position also join the content."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(dim, num_heads, dropout)
        self.q_position = nn.Linear(dim, dim)

    def compare_content(
        self,
        content: Content,
        object_query: ObjectQuery,
        memory: MemoryCells,
        spatial_key: MemoryCells,
    ) -> tuple[Content, MemoryCells]:
        return self.q_content(content) + self.q_position(object_query), self.k_content(memory) + spatial_key


class AdditiveCrossAttention(CrossAttention):
    """softmax(W_q(c + o_q) · W_k(memory + position) / √d) v: content and space are added before they are compared (DETR).

    The key's projection is taken apart, W_k(memory + position) = (W_k memory + b) + W_k position, so that the same query can
    be compared with either.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(num_heads, dropout)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def parts(
        self,
        content: Content,
        object_query: ObjectQuery,
        spatial_query: Content,
        memory: MemoryCells,
        position: Position,
    ) -> Parts:
        query = self.q(content + object_query)
        spatial_key = F.linear(position, self.k.weight).expand_as(memory)
        compared = query, self.k(memory), query, spatial_key
        return Parts(*(split_heads(x, self.num_heads) for x in compared))

    def join(self, parts: Parts) -> Compared:
        return add(parts)


class Attentions(NamedTuple):
    """A decoder's attention: among queries, and from queries to memory in the first layer and in the later ones.

    Each is built by (dim, number of heads, dropout).
    """

    among_queries: Callable[[int, int, float], nn.Module]
    first: Callable[[int, int, float], CrossAttention]
    later: Callable[[int, int, float], CrossAttention]


CROSS_ATTENTIONS = {
    "conditional": Attentions(ConditionalSelfAttention, FirstConditionalCrossAttention, ConditionalCrossAttention),
    "additive": Attentions(AdditiveAttention, AdditiveCrossAttention, AdditiveCrossAttention),
}


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each with a residual and a norm behind it."""

    def __init__(
        self, self_attention: nn.Module, cross_attention: CrossAttention, dim: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)

    def forward(
        self,
        decoder_embedding: Content,
        object_query: ObjectQuery,
        embedded_points: Points,
        spatial_query: Callable[[Tensor, Tensor, Tensor], Tensor],
        memory: MemoryCells,
        position: Position,
        is_padding: Bool[Tensor, "B N"] | None,
        groups: int = 1,
    ) -> Content:
        seen = apart(self.self_attention, decoder_embedding, object_query, groups)
        content = self.norm1(decoder_embedding + self.dropout(seen))
        place = spatial_query(embedded_points, decoder_embedding, content)
        attended = self.cross_attention(content, object_query, place, memory, position, is_padding)
        return self.feedforward(self.norm2(content + self.dropout(attended)))


def apart(self_attention: nn.Module, decoder_embedding: Content, object_query: ObjectQuery, groups: int) -> Content:
    """Self-attention within each of several groups of queries: they are images of a larger batch to it (Group DETR)."""
    if groups == 1:
        attended: Tensor = self_attention(decoder_embedding, object_query)
        return attended
    images, queries, dim = decoder_embedding.shape
    content = decoder_embedding.reshape(images * groups, queries // groups, dim)
    query = object_query.expand(images, -1, -1).reshape(images * groups, queries // groups, dim)
    together: Tensor = self_attention(content, query)
    return together.view(images, queries, dim)


class Decoder(nn.Module):
    """A stack of layers that share one spatial query with its Λ_q, and one norm on the way to the heads.

    Parameters
    ----------
    layers : the first is built for a decoder embedding of zeros
    spatial_query : where queries look from; DETR's attention has no use for it
    """

    def __init__(self, layers: list[DecoderLayer], spatial_query: SpatialQuery, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.spatial_query = spatial_query
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        object_query: ObjectQuery,
        reference_points: Float[Tensor, "*_ Q 2"],
        memory: MemoryCells,
        position: Position,
        is_padding: Bool[Tensor, "B N"] | None,
        groups: int = 1,
    ) -> Float[Tensor, "L B Q D"]:
        """Decoder embeddings of every layer, normed for the heads; the stream itself goes on un-normed.

        Queries see only those of their own group, of so many groups of equal size that lie one after the other.
        """
        embedded_points = sine_embedding(reference_points, object_query.shape[-1])
        # Until it meets the memory the stream is the same for all images, unless their queries differ; or dropout does.
        copies = memory.shape[0] if self.training or object_query.ndim == 3 else 1
        decoder_embedding = torch.zeros_like(object_query).expand(copies, -1, -1)
        spatial_queries = chain([self.spatial_query.first], repeat(self.spatial_query))
        decoded = []
        for layer, spatial_query in zip(self.layers, spatial_queries, strict=False):
            decoder_embedding = layer(
                decoder_embedding,
                object_query,
                embedded_points,
                spatial_query,
                memory,
                position,
                is_padding,
                groups,
            )
            decoded.append(self.norm(decoder_embedding))
        return torch.stack(decoded)
