"""The loss that cells are chosen as reference points by: how near each one is to the centre of an object."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from conditional_detr.model.memory import Memory

WIDTH = 0.4  # of the hill over an object, in halves of its sides


def objectness_loss(objectness: Float[Tensor, "B N"], memory: Memory, targets: list[dict[str, Tensor]]) -> Float[Tensor, ""]:
    """|t − p|² times the cross-entropy of p with t, summed over all cells that are no padding.

    Source: quality focal loss (Li et al., NeurIPS 2020), with a hill over each object as CenterNet has it (Zhou et al., 2019).

    Parameters
    ----------
    objectness : logits of each cell
    memory : where the cells lie
    targets : as `SetCriterion` wants them
    """
    logits, centres = objectness.float(), memory.centres.expand(len(targets), -1, -1)
    wanted = torch.stack([gaussian_targets(c, t["boxes"]) for c, t in zip(centres, targets, strict=True)])
    lost = (wanted - logits.sigmoid()).square() * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    if memory.is_padding is not None:
        lost = lost.masked_fill(memory.is_padding, 0)
    return lost.sum()


def gaussian_targets(centres: Float[Tensor, "N 2"], boxes_cxcywh: Float[Tensor, "M 4"]) -> Float[Tensor, " N"]:
    """1 at the cell nearest to a box's centre, falling to nothing at its sides; where boxes overlap the higher hill."""
    if not len(boxes_cxcywh):
        return centres.new_zeros(len(centres))
    offset = centres[:, None] - boxes_cxcywh[None, :, :2].float()
    half = boxes_cxcywh[None, :, 2:].float().clamp(min=1e-6) / 2
    height = torch.exp(-(offset / half).square().sum(-1) / (2 * WIDTH**2))
    nearest = offset.abs().sum(-1).argmin(0)
    return height.scatter(0, nearest[None], 1.0).amax(1)
