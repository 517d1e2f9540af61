"""Attention as functions of projected queries, keys and values, without parameters of their own."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from conditional_detr.model.precision import autocast_on_cpu, float32_region


def split_heads(x: Float[Tensor, "B N D"], num_heads: int) -> Float[Tensor, "B H N d"]:
    """[B, N, H·d] → [B, H, N, d]."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).transpose(1, 2)


def blocked_keys(is_padding: Bool[Tensor, "B N"] | None) -> Bool[Tensor, "B 1 1 N"] | None:
    """Turn a padding mask into a mask of query-key pairs that `attend` ignores."""
    return None if is_padding is None else is_padding[:, None, None, :]


def attention_weights(
    query: Float[Tensor, "B H Q d"],
    key: Float[Tensor, "B H N d"],
    blocked: Bool[Tensor, "..."] | None,
    width: int,
) -> Float[Tensor, "B H Q N"]:
    """Attention weights softmax(q·kᵀ / √width) over the pairs that are not blocked.

    `attend` uses these weights without storing them. `width` is the width of the complete keys, even if `query` and `key` are
    only one part of them.
    """
    logits = query @ key.transpose(-1, -2) / math.sqrt(width)
    if blocked is not None:
        logits = logits.masked_fill(blocked, -torch.inf)
    return logits.softmax(-1)


def attend_within_groups(
    projected: tuple[Float[Tensor, "_ N D"], Float[Tensor, "_ N D"], Float[Tensor, "_ N D"]],
    num_heads: int,
    groups: int = 1,
    blocked: Bool[Tensor, "..."] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "_ N D"]:
    """Self-attention within groups of tokens. The groups have equal size and lie one after the other.

    Each group is passed to the attention kernel as if it were an image of a larger batch.

    Parameters
    ----------
    projected : projected query, key and value
    num_heads : number of heads H
    groups : number of groups; 1 = all tokens attend to each other
    blocked, dropout : as for `attend`
    """
    query, key, value = (
        split_heads(x.reshape(-1, x.shape[1] // groups, x.shape[2]) if groups > 1 else x, num_heads) for x in projected
    )
    attended = attend(query, key, value, blocked, dropout)
    return attended.view(projected[0].shape) if groups > 1 else attended


def attend(
    query: Float[Tensor, "_ H Q d"],
    key: Float[Tensor, "_ H N d"],
    value: Float[Tensor, "_ H N v"],
    blocked: Bool[Tensor, "..."] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "_ Q Dv"]:
    """Compute softmax(q·kᵀ / √d) v over the pairs that are not blocked, and join the heads.

    Values may be narrower than keys, as in the cross-attention of this model (32 and 64 channels per head). The fused kernels
    require equal widths, so such values are padded with zeros, and the padding is removed from the result.

    Parameters
    ----------
    query, key : [B, H, Q or N, d]; the batch size of `query` may be 1
    value : [B, H, N, v], v ≤ d
    blocked : bool, broadcast to [B, H, Q, N], True = not attended to; every query must have at least one key that is not
        blocked
    dropout : probability with which an attention weight is set to zero

    Returns
    -------
    [B, Q, H·v]
    """
    if autocast_on_cpu(query):
        with float32_region(query):
            return attend(query.float(), key.float(), value.float(), blocked, dropout)
    width = value.shape[-1]
    if width < key.shape[-1]:
        value = F.pad(value, (0, key.shape[-1] - width))
    query = query.expand(key.shape[0], -1, -1, -1)  # queries may be the same for all images
    mask = None if blocked is None else ~blocked
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return attended[..., :width].transpose(1, 2).flatten(2)
