"""Conditional DETR's decoder: cross-attention whose spatial query is conditioned on the decoder embedding."""

from itertools import chain, repeat

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from conditional_detr.model.attention import attend, concat_per_head, split_heads
from conditional_detr.model.encoder import FeedForward
from conditional_detr.model.positional import sine_embedding


class DecoderSelfAttention(nn.Module):
    """Queries look at each other: content and object query have projections of their own, and are added."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_content, self.q_position, self.k_content, self.k_position, self.v, self.out = (
            nn.Linear(dim, dim) for _ in range(6)
        )

    def forward(self, decoder_embedding: Float[Tensor, "B Q D"], object_query: Float[Tensor, "Q D"]) -> Float[Tensor, "B Q D"]:
        query = self.q_content(decoder_embedding) + self.q_position(object_query)
        key = self.k_content(decoder_embedding) + self.k_position(object_query)
        query, key, value = (split_heads(x, self.num_heads) for x in (query, key, self.v(decoder_embedding)))
        return self.out(attend(query, key, value, dropout=self.dropout if self.training else 0.0))


class ConditionalCrossAttention(nn.Module):
    """softmax((c_q·c_k + p_q·p_k) / √d) v: content and space are compared apart, head by head (eq. 5).

    Only the memory enters the values; the position never does.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_content, self.q_spatial, self.k_content, self.k_spatial, self.v, self.out = (
            nn.Linear(dim, dim) for _ in range(6)
        )

    def content_query_and_key(
        self,
        decoder_embedding: Float[Tensor, "B Q D"],
        object_query: Float[Tensor, "Q D"],
        memory: Float[Tensor, "B N D"],
        spatial_key: Float[Tensor, "B N D"],
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B N D"]]:
        return self.q_content(decoder_embedding), self.k_content(memory)

    def forward(
        self,
        decoder_embedding: Float[Tensor, "B Q D"],
        object_query: Float[Tensor, "Q D"],
        spatial_query: Float[Tensor, "B Q D"],
        memory: Float[Tensor, "B N D"],
        position: Float[Tensor, "_ N D"],
        is_padding: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B Q D"]:
        spatial_key = self.k_spatial(position).expand_as(memory)
        content_query, content_key = self.content_query_and_key(decoder_embedding, object_query, memory, spatial_key)
        query = concat_per_head(content_query, self.q_spatial(spatial_query), self.num_heads)
        key = concat_per_head(content_key, spatial_key, self.num_heads)
        value = split_heads(self.v(memory), self.num_heads)
        return self.out(attend(query, key, value, is_padding, self.dropout if self.training else 0.0))


class FirstConditionalCrossAttention(ConditionalCrossAttention):
    """The first layer's: nothing is decoded yet, so the object query and the position also join the content."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(dim, num_heads, dropout)
        self.q_position = nn.Linear(dim, dim)

    def content_query_and_key(
        self,
        decoder_embedding: Float[Tensor, "B Q D"],
        object_query: Float[Tensor, "Q D"],
        memory: Float[Tensor, "B N D"],
        spatial_key: Float[Tensor, "B N D"],
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B N D"]]:
        query = self.q_content(decoder_embedding) + self.q_position(object_query)
        return query, self.k_content(memory) + spatial_key


# How query and memory are compared: in the first layer, and in the later ones.
CROSS_ATTENTIONS = {"conditional": (FirstConditionalCrossAttention, ConditionalCrossAttention)}


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each with a residual and a norm behind it."""

    def __init__(self, cross_attention: nn.Module, dim: int, num_heads: int, feedforward_dim: int, dropout: float):
        super().__init__()
        self.self_attention = DecoderSelfAttention(dim, num_heads, dropout)
        self.cross_attention = cross_attention
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout)

    def forward(
        self,
        decoder_embedding: Float[Tensor, "B Q D"],
        object_query: Float[Tensor, "Q D"],
        spatial_query: Float[Tensor, "B Q D"],
        memory: Float[Tensor, "B N D"],
        position: Float[Tensor, "_ N D"],
        is_padding: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B Q D"]:
        attended = self.self_attention(decoder_embedding, object_query)
        decoder_embedding = self.norm1(decoder_embedding + self.dropout(attended))
        attended = self.cross_attention(decoder_embedding, object_query, spatial_query, memory, position, is_padding)
        decoder_embedding = self.norm2(decoder_embedding + self.dropout(attended))
        return self.feedforward(decoder_embedding)


class Decoder(nn.Module):
    """A stack of layers that share one Λ_q network, and one norm on the way to the heads.

    Parameters
    ----------
    layers : the first is built for a decoder embedding of zeros
    first_spatial_query, spatial_query : (embedded points, decoder embedding) → spatial query, for the first layer and for
        all later ones
    """

    def __init__(self, layers: list[DecoderLayer], first_spatial_query: nn.Module, spatial_query: nn.Module, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.first_spatial_query = first_spatial_query
        self.spatial_query = spatial_query
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        object_query: Float[Tensor, "Q D"],
        reference_points: Float[Tensor, "Q 2"],
        memory: Float[Tensor, "B N D"],
        position: Float[Tensor, "_ N D"],
        is_padding: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "L B Q D"]:
        """Decoder embeddings of every layer, normed for the heads; the stream itself goes on un-normed."""
        embedded_points = sine_embedding(reference_points, object_query.shape[-1])
        decoder_embedding = torch.zeros_like(object_query).expand(memory.shape[0], -1, -1)
        spatial_queries = chain([self.first_spatial_query], repeat(self.spatial_query))
        decoded = []
        for layer, spatial_query in zip(self.layers, spatial_queries, strict=False):
            decoder_embedding = layer(
                decoder_embedding,
                object_query,
                spatial_query(embedded_points, decoder_embedding),
                memory,
                position,
                is_padding,
            )
            decoded.append(self.norm(decoder_embedding))
        return torch.stack(decoded)
