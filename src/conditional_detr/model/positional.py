"""The sine embedding, used for memory positions and reference points, and the positions of memory cells."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TEMPERATURE = 10_000.0


class Grid(NamedTuple):
    """How the cells of each memory level are placed in the image.

    Attributes
    ----------
    strides : stride of each level, px
    extent : (`cell_counts` [B or 1, h, w, 2], images, padding mask, stride) → width and height of each unpadded image in cells,
        [B or 1, 2]
    shift : the position embedding is that of the lower right corner of a cell, moved by this many cells towards the upper
        left: 0 as in DETR, 0.5 (the centre of the cell) as in Deformable DETR
    """

    strides: tuple[int, ...]
    extent: Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
    shift: float = 0.0


def sine_embedding(points_xy: Float[Tensor, "*shape 2"], dim: int) -> Float[Tensor, "*shape {dim}"]:
    """Sine embedding of points: [emb(y) | emb(x)], where sines and cosines alternate in each half.

    ``emb(u)[2i] = sin(2πu / T^(2i / (dim/2)))``, and ``emb(u)[2i+1]`` is its cosine. T = 10 000. The half of y comes first.

    Source: DETR, appendix A.4; Conditional DETR, section 3.3.

    Parameters
    ----------
    points_xy : float [..., 2], relative to the unpadded image; converted to float32
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


def cell_counts(
    is_padding: Bool[Tensor, "B h w"] | None, height: int | torch.SymInt, width: int | torch.SymInt, device: torch.device
) -> Float[Tensor, "_ h w 2"]:
    """Number of valid cells up to and including each cell of a feature map, along x and along y.

    Parameters
    ----------
    is_padding : bool [B, h, w], or None if nothing is padded
    height, width : h and w
    device : device of the result

    Returns
    -------
    float32 [B, h, w, 2] as (x, y); [1, h, w, 2] if nothing is padded
    """
    if is_padding is None:
        ones = torch.ones(1, height, width, device=device)
    else:
        ones = (~is_padding).float()
    return torch.stack([ones.cumsum(2), ones.cumsum(1)], dim=-1)


def extent_in_whole_cells(
    counts: Float[Tensor, "_ h w 2"],
    images: Float[Tensor, "B _ H W"],
    padding_mask: Bool[Tensor, "B H W"] | None,
    stride: int,
) -> Float[Tensor, "_ 2"]:
    """Width and height of each unpadded image in whole cells: the image ends with its last valid row and column.

    This is the convention of DETR, including the 1e-6 that is added to both. The released weights depend on it.
    """
    return torch.stack([counts[:, 0, -1, 0], counts[:, -1, 0, 1]], dim=-1) + 1e-6


def pixel_aligned(
    counts: Float[Tensor, "_ h w 2"],
    images: Float[Tensor, "B _ H W"],
    padding_mask: Bool[Tensor, "B H W"] | None,
    stride: int,
) -> Float[Tensor, "_ 2"]:
    """Width and height of each unpadded image in cells, as fractions. The last cells may extend beyond the image."""
    if padding_mask is None:
        sizes = torch.tensor([[images.shape[-1], images.shape[-2]]], device=images.device)
    else:
        sizes = torch.stack([(~padding_mask[:, 0]).sum(-1), (~padding_mask[:, :, 0]).sum(-1)], dim=-1)
    return sizes.float() / stride


def inverse_sigmoid(probability: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """logit(p), with p and 1 − p clamped to at least 1e-5 as in the reference release."""
    p = probability.clamp(0, 1)
    return torch.log(p.clamp(min=1e-5) / (1 - p).clamp(min=1e-5))


EXTENTS = {False: extent_in_whole_cells, True: pixel_aligned}  # by `pixel_aligned_positions`
