"""Attention as functions of projected queries, keys and values: no parameters here."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def split_heads(x: Float[Tensor, "B N D"], num_heads: int) -> Float[Tensor, "B H N d"]:
    """[B, N, H·d] → [B, H, N, d]."""
    return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads).transpose(1, 2)


def concat_per_head(
    content: Float[Tensor, "B N D"], spatial: Float[Tensor, "B N D"], num_heads: int
) -> Float[Tensor, "B H N d2"]:
    """Each head's content and spatial parts side by side: [c_h | p_h].

    Their inner product is then the sum of both parts' products, head by head (Conditional DETR, section 3.3, eq. 5).
    Concatenating before splitting into heads would give some heads only content and others only space.
    """
    return torch.cat([split_heads(content, num_heads), split_heads(spatial, num_heads)], dim=-1)


def attend(
    query: Float[Tensor, "B H Q d"],
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
    query, key : [B, H, Q or N, d]
    value : [B, H, N, v], v ≤ d
    is_padding : bool [B, N], True = not attended to. An image has at least one cell that is no padding
    dropout : probability with which an attention weight is zeroed

    Returns
    -------
    [B, Q, H·v]
    """
    width = value.shape[-1]
    mask = None if is_padding is None else ~is_padding[:, None, None, :]
    if width < key.shape[-1]:
        value = F.pad(value, (0, key.shape[-1] - width))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return attended[..., :width].transpose(1, 2).flatten(2)
