"""Input and output of the decoder."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from conditional_detr.model.positional import sine_embedding


class Queries(NamedTuple):
    """The queries of a batch. The first axis of a field is 1 if its values are the same for all images.

    Attributes
    ----------
    content : [B or 1, Q, D], the decoder embedding f
    position : [B or 1, Q, D], the object query o_q
    reference : [B or 1, Q, 2 or 4], the reference point (x, y) or reference box (cx, cy, w, h), in [0, 1]
    embedded : [B or 1, Q, D], p_s, the sine embedding of the reference point
    spatial : [B or 1, Q, D], the spatial query p_q of the current layer; None if its attention does not use one
    blocked : bool [Q, Q], True for pairs of queries that do not attend to each other; None = all attend to each other
    groups : number of query groups of equal size, one after the other, that do not attend to each other (Group DETR)
    """

    content: Tensor
    position: Tensor
    reference: Tensor
    embedded: Tensor
    spatial: Tensor | None = None
    blocked: Tensor | None = None
    groups: int = 1

    @classmethod
    def start(
        cls, object_query: Float[Tensor, "_ Q D"], reference: Float[Tensor, "_ Q R"], content: Tensor | None = None
    ) -> "Queries":
        """Queries before the first layer. Their content is zero unless it is given, [1, Q, D]."""
        embedded = sine_embedding(reference[..., :2], object_query.shape[-1])
        content = torch.zeros_like(object_query) if content is None else content.expand_as(object_query)
        return cls(content, object_query, reference, embedded)

    def with_reference(self, reference: Float[Tensor, "_ Q R"]) -> "Queries":
        """The same queries with other reference points or boxes."""
        return self._replace(reference=reference, embedded=sine_embedding(reference[..., :2], self.position.shape[-1]))


class Decoded(NamedTuple):
    """Output of all decoder layers, the first layer first.

    Attributes
    ----------
    embeddings : [L, B, Q, D], normalised
    references : reference points or boxes of the queries, one tensor [B or 1, Q, 2 or 4] per layer
    """

    embeddings: Tensor
    references: tuple[Tensor, ...]

    @property
    def last(self) -> "Decoded":
        """Output of the last layer only."""
        return Decoded(self.embeddings[-1:], self.references[-1:])


def in_groups(groups: list[Queries]) -> Queries:
    """Concatenate groups of queries to [_, G·Q, …]. Queries attend only to those of their own group (Group DETR).

    Source: Chen et al., ICCV 2023, section 3.
    """
    content, position, reference, embedded = (torch.cat(each, dim=1) for each in zip(*(g[:4] for g in groups), strict=True))
    return Queries(content, position, reference, embedded, groups=len(groups))
