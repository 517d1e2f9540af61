"""What a decoder works on, and what it returns."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from conditional_detr.model.positional import sine_embedding


class Queries(NamedTuple):
    """The queries of a batch. The first axis is 1 where something is the same for all images.

    Attributes
    ----------
    content : [B or 1, Q, D], f, the decoder embedding
    position : [B or 1, Q, D], o_q, the object query
    reference : [B or 1, Q, 2 or 4], the point (x, y) or box (cx, cy, w, h) that a query looks from, in [0, 1]
    embedded : [B or 1, Q, D], p_s, the sine embedding of that point
    spatial : [B or 1, Q, D], p_q, the spatial query of a layer; None where a layer's attention has none
    blocked : bool [Q, Q], pairs of queries that do not see each other; None = all do
    groups : number of groups of equal size, one after the other, that do not see each other (Group DETR)
    """

    content: Tensor
    position: Tensor
    reference: Tensor
    embedded: Tensor
    spatial: Tensor | None = None
    blocked: Tensor | None = None
    groups: int = 1

    @classmethod
    def start(cls, object_query: Float[Tensor, "_ Q D"], reference: Float[Tensor, "_ Q R"]) -> "Queries":
        """Before the first layer: nothing is decoded yet, the content is zero."""
        embedded = sine_embedding(reference[..., :2], object_query.shape[-1])
        return cls(torch.zeros_like(object_query), object_query, reference, embedded)

    def with_reference(self, reference: Float[Tensor, "_ Q R"]) -> "Queries":
        """The same queries with other reference points or boxes."""
        return self._replace(reference=reference, embedded=sine_embedding(reference[..., :2], self.position.shape[-1]))


class Decoded(NamedTuple):
    """What the decoder's layers return, the first layer first.

    Attributes
    ----------
    embeddings : [L, B, Q, D], normed
    references : of each layer [B or 1, Q, 2 or 4], what its queries looked from
    """

    embeddings: Tensor
    references: tuple[Tensor, ...]

    @property
    def last(self) -> "Decoded":
        """The last layer alone."""
        return Decoded(self.embeddings[-1:], self.references[-1:])


def in_groups(groups: list[Queries]) -> Queries:
    """Several groups of queries as one, [_, G·Q, …]: queries see those of their own group only (Group DETR).

    Source: Chen et al., ICCV 2023, section 3.
    """
    content, position, reference, embedded = (torch.cat(each, dim=1) for each in zip(*(g[:4] for g in groups), strict=True))
    return Queries(content, position, reference, embedded, groups=len(groups))
