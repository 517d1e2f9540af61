"""The one sine embedding, for the grid of the memory and for reference points alike."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TEMPERATURE = 10_000.0


def sine_embedding(points_xy: Float[Tensor, "*shape 2"], dim: int) -> Float[Tensor, "*shape {dim}"]:
    """Sine embedding of points: [emb(y) | emb(x)], each half interleaved sin, cos, sin, cos.

    ``emb(u)[2i] = sin(2πu / T^(2i / (dim/2)))`` and ``emb(u)[2i+1]`` its cosine; T = 10 000. The vertical half comes first.

    Source: DETR, appendix A.4; Conditional DETR, section 3.3.

    Parameters
    ----------
    points_xy : float [..., 2], relative to the unpadded image; computed in float32 whatever comes
    dim : length of the embedding, divisible by 4

    Returns
    -------
    float32 [..., dim]
    """
    half = dim // 2
    index = torch.arange(half, device=points_xy.device)
    wavelength = TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor").float() / half)
    angle = points_xy.float()[..., None] * (2 * math.pi) / wavelength  # [..., 2, half]
    pairs = torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)
    return torch.cat([pairs[..., 1, :], pairs[..., 0, :]], dim=-1)


def grid_points(
    is_padding: Bool[Tensor, "B h w"] | None, height: int, width: int, device: torch.device
) -> Float[Tensor, "_ h w 2"]:
    """Where each cell of the feature map lies in its unpadded image: the last valid row and column are at 1.

    The first row is at 1/height, not at half a cell: DETR's convention, which released weights depend on.

    Returns
    -------
    float32 [B, h, w, 2] as (x, y); [1, h, w, 2] where nothing is padded
    """
    if is_padding is None:
        ones = torch.ones(1, height, width, device=device)
    else:
        ones = (~is_padding).float()
    y, x = ones.cumsum(1), ones.cumsum(2)
    return torch.stack([x / (x[:, :, -1:] + 1e-6), y / (y[:, -1:, :] + 1e-6)], dim=-1)


def inverse_sigmoid(probability: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """logit(p) with both p and 1 − p kept at or above 1e-5, as the reference release does."""
    p = probability.clamp(0, 1)
    return torch.log(p.clamp(min=1e-5) / (1 - p).clamp(min=1e-5))
