"""Attention modules, and the tables that name them. To add a variant, write a class and add it to a table here."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from conditional_detr.model.attention.conditional import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    FirstConditionalCrossAttention,
)
from conditional_detr.model.attention.deformable import DeformableCrossAttention, DeformableEncoderAttention
from conditional_detr.model.attention.dense import AdditiveCrossAttention, AdditiveSelfAttention, DenseAttention

# (width D, number of heads, dropout probability) → module. Attention that samples also takes `levels` and `points`.
Build = Callable[..., nn.Module]


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


ENCODER_ATTENTION: dict[str, Build] = {"dense": DenseAttention, "deformable": DeformableEncoderAttention}  # Memory → [B, N, D]
CROSS_ATTENTION = {
    "conditional": DecoderAttention(ConditionalSelfAttention, FirstConditionalCrossAttention, ConditionalCrossAttention),
    "additive": DecoderAttention(AdditiveSelfAttention, AdditiveCrossAttention, AdditiveCrossAttention),
    "deformable": DecoderAttention(AdditiveSelfAttention, DeformableCrossAttention, DeformableCrossAttention),
}
