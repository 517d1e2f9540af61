"""Attention as functions of projected queries, keys and values: no parameters here."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from conditional_detr.model.precision import autocast_on_cpu, float32_region


def split_heads(x: Float[Tensor, "B N D"], num_heads: int) -> Float[Tensor, "B H N d"]:
    """[B, N, H·d] → [B, H, N, d]."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).transpose(1, 2)


class Parts(NamedTuple):
    """What is compared in cross-attention, split into what things look like and where they are; [B, H, Q or N, d] each."""

    content_query: Tensor
    content_key: Tensor
    spatial_query: Tensor
    spatial_key: Tensor


def concatenate(parts: Parts) -> tuple[Tensor, Tensor]:
    """Query and key [c_h | p_h]: each head's content and spatial parts side by side.

    Their inner product is then the sum of both parts' products, head by head (Conditional DETR, section 3.3, eq. 5).
    Concatenating before splitting into heads would give some heads only content and others only space.
    """
    query = torch.cat([parts.content_query, parts.spatial_query], dim=-1)
    return query, torch.cat([parts.content_key, parts.spatial_key], dim=-1)


def add(parts: Parts) -> tuple[Tensor, Tensor]:
    """Query and key of DETR: one query is compared with the sum of content and spatial key."""
    return parts.content_query, parts.content_key + parts.spatial_key


def attention_weights(
    query: Float[Tensor, "B H Q d"], key: Float[Tensor, "B H N d"], is_padding: Bool[Tensor, "B N"] | None, width: int
) -> Float[Tensor, "B H Q N"]:
    """softmax(q·kᵀ / √width) over keys that are no padding: what `attend` never writes down.

    `width` is that of whole keys, also where `query` and `key` are one part of them.
    """
    logits = query @ key.transpose(-1, -2) / math.sqrt(width)
    if is_padding is not None:
        logits = logits.masked_fill(is_padding[:, None, None, :], -torch.inf)
    return logits.softmax(-1)


def attend(
    query: Float[Tensor, "_ H Q d"],
    key: Float[Tensor, "B H N d"],
    value: Float[Tensor, "B H N v"],
    is_padding: Bool[Tensor, "B N"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B Q Dv"]:
    """softmax(q·kᵀ / √d) v over keys that are no padding; heads are joined again.

    Values may be narrower than keys, as in this model's cross-attention (32 against 64 a head). The fused kernels take
    equal widths only, so such values travel with zeros beside them, which changes nothing else.

    Parameters
    ----------
    query, key : [B, H, Q or N, d]; queries may have a batch of 1
    value : [B, H, N, v], v ≤ d
    is_padding : bool [B, N], True = not attended to. An image has at least one cell that is no padding
    dropout : probability with which an attention weight is zeroed

    Returns
    -------
    [B, Q, H·v]
    """
    if autocast_on_cpu(query):
        with float32_region(query):
            return attend(query.float(), key.float(), value.float(), is_padding, dropout)
    width = value.shape[-1]
    mask = None if is_padding is None else ~is_padding[:, None, None, :]
    if width < key.shape[-1]:
        value = F.pad(value, (0, key.shape[-1] - width))
    query = query.expand(key.shape[0], -1, -1, -1)  # queries may be the same for all images
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return attended[..., :width].transpose(1, 2).flatten(2)
