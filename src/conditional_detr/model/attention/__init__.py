"""Attention modules, and the tables that name them. A variant is a class and a line here."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from conditional_detr.model.attention.conditional import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    FirstConditionalCrossAttention,
)
from conditional_detr.model.attention.dense import AdditiveCrossAttention, AdditiveSelfAttention, DenseAttention

Build = Callable[[int, int, float], nn.Module]  # from the width D, the number of heads and the probability of dropout


class DecoderAttention(NamedTuple):
    """The attention of a decoder.

    Attributes
    ----------
    self_attention : Queries → [_, Q, D]
    first_cross_attention, cross_attention : (Queries, Memory) → [B, Q, D], of the first layer and of the later ones
    """

    self_attention: Build
    first_cross_attention: Build
    cross_attention: Build


ENCODER_ATTENTION: dict[str, Build] = {"dense": DenseAttention}  # Memory → [B, N, D]
CROSS_ATTENTION = {
    "conditional": DecoderAttention(ConditionalSelfAttention, FirstConditionalCrossAttention, ConditionalCrossAttention),
    "additive": DecoderAttention(AdditiveSelfAttention, AdditiveCrossAttention, AdditiveCrossAttention),
}
