"""Attention modules, and the tables that name them. To add a variant, write a class and add it to a table here."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from conditional_detr.model.attention.conditional import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    FirstConditionalCrossAttention,
)
from conditional_detr.model.attention.dense import AdditiveCrossAttention, AdditiveSelfAttention, DenseAttention

Build = Callable[[int, int, float], nn.Module]  # (width D, number of heads, dropout probability) → module


class DecoderAttention(NamedTuple):
    """The attention modules of a decoder.

    Attributes
    ----------
    self_attention : builds a module Queries → [_, Q, D]
    first_cross_attention : builds the cross-attention of the first layer, (Queries, Memory) → [B, Q, D]
    cross_attention : builds the cross-attention of the later layers, (Queries, Memory) → [B, Q, D]
    """

    self_attention: Build
    first_cross_attention: Build
    cross_attention: Build


ENCODER_ATTENTION: dict[str, Build] = {"dense": DenseAttention}  # Memory → [B, N, D]
CROSS_ATTENTION = {
    "conditional": DecoderAttention(ConditionalSelfAttention, FirstConditionalCrossAttention, ConditionalCrossAttention),
    "additive": DecoderAttention(AdditiveSelfAttention, AdditiveCrossAttention, AdditiveCrossAttention),
}
