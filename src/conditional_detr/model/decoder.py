"""The decoder. In each layer the queries attend to each other and then to the memory.

A box head may refine the reference points of the queries between layers.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conditional_detr.model.encoder import FeedForward, PreNormFeedForward
from conditional_detr.model.memory import Memory
from conditional_detr.model.queries import Decoded, Queries
from conditional_detr.model.spatial_query import SpatialQuery

# (layer number, its normalised embeddings [B, Q, D], its queries) → the queries of the next layer
Refine = Callable[[int, Tensor, Queries], Queries]


def keep_reference(layer: int, embedding: Float[Tensor, "B Q D"], queries: Queries) -> Queries:
    """Keep the same reference points in every layer, as in the paper."""
    return queries


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each followed by a residual connection and a layer norm.

    Parameters
    ----------
    self_attention : Queries → [_, Q, D]
    cross_attention : (Queries, Memory) → [B, Q, D]
    dim, feedforward_dim, dropout : D, width of the hidden layer, dropout probability
    """

    feedforward_type = FeedForward

    def __init__(
        self, self_attention: nn.Module, cross_attention: nn.Module, dim: int, feedforward_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.feedforward = self.feedforward_type(dim, feedforward_dim, dropout)

    def forward(self, queries: Queries, memory: Memory, spatial_query: Callable[[Queries, Tensor], Tensor | None]) -> Queries:
        content = self.norm1(queries.content + self.dropout(self.self_attention(queries)))
        looking = queries._replace(content=content, spatial=spatial_query(queries, content))
        attended = self.cross_attention(looking, memory)
        return queries._replace(content=self.feedforward(self.norm2(content + self.dropout(attended))))


class PreNormDecoderLayer(DecoderLayer):
    """Self-attention, cross-attention and feed-forward, each preceded by a layer norm (UP-DETR)."""

    feedforward_type = PreNormFeedForward

    def forward(self, queries: Queries, memory: Memory, spatial_query: Callable[[Queries, Tensor], Tensor | None]) -> Queries:
        normalised = queries._replace(content=self.norm1(queries.content))
        content = queries.content + self.dropout(self.self_attention(normalised))
        looking = self.norm2(content)
        attended = self.cross_attention(queries._replace(content=looking, spatial=spatial_query(normalised, looking)), memory)
        return queries._replace(content=self.feedforward(content + self.dropout(attended)))


class Decoder(nn.Module):
    """A stack of decoder layers. All layers share one spatial query module with its Λ_q, and one layer norm before the heads.

    Parameters
    ----------
    layers : decoder layers
    spatial_query : (Queries, content) → spatial query p_q of a layer; its `first` method is used in the first layer
    norm : layer norm before the heads; `nn.Identity` = none (Deformable DETR)
    """

    def __init__(self, layers: list[DecoderLayer], spatial_query: SpatialQuery, norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.spatial_query = spatial_query
        self.norm = norm

    def forward(self, queries: Queries, memory: Memory, refine: Refine = keep_reference) -> Decoded:
        """Return the embeddings of every layer, normalised for the heads.

        The next layer receives the embedding without this norm.
        """
        # In training each image needs its own dropout. In eval mode the content is the same for all images up to the first
        # cross-attention, so a batch size of 1 is enough.
        if self.training:
            queries = queries._replace(content=queries.content.expand(memory.tokens.shape[0], -1, -1))
        embeddings, references = [], []
        for number, layer in enumerate(self.layers):
            references.append(queries.reference)
            queries = layer(queries, memory, self.spatial_query if number else self.spatial_query.first)
            embeddings.append(self.norm(queries.content))
            queries = refine(number, embeddings[-1], queries)
        return Decoded(torch.stack(embeddings), tuple(references))


DECODER_LAYERS = {"post": DecoderLayer, "pre": PreNormDecoderLayer}  # by the value of `norm`
DECODER_NORMS: dict[bool, Callable[[int], nn.Module]] = {True: nn.LayerNorm, False: nn.Identity}  # by `decoder_norm`
