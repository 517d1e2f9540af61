"""Loss of the objectness score: how near each cell is to the centre of an object. The best cells become reference points."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from conditional_detr.model.memory import Memory
from conditional_detr.training.objective.losses import LABELLED

WIDTH = 0.4  # standard deviation of the Gaussian over an object, in half widths and half heights of its box
SAME_LEVEL = 1e-3  # tolerance with which cells have the typical size of the same level
AT_SIDE = math.exp(-1 / (2 * WIDTH**2))  # target at the middle of a side of a box; lower outside the box


def objectness_loss(objectness: Float[Tensor, "B N"], memory: Memory, targets: list[dict[str, Tensor]]) -> Float[Tensor, ""]:
    """Quality focal loss: |t − p|² times the cross-entropy of p with t, summed over all cells that are not padding.

    The targets t form a Gaussian over each object, see `gaussian_targets`. In an image in which only some classes are labelled,
    a cell whose target is below that of the sides of a box has no loss once p exceeds 0.5: it probably shows an object of
    another class. Below 0.5 it counts as background. Objects of each class are labelled in some images, which raise their p
    above 0.5.

    Source: quality focal loss (Li et al., NeurIPS 2020), with Gaussian targets as in CenterNet (Zhou et al., 2019);
    the rule for missing labels follows the background recalibration loss (Zhang et al., ICASSP 2020).

    Parameters
    ----------
    objectness : logit of each cell
    memory : positions and padding of the cells
    targets : one dict per image, see `SetCriterion`
    """
    logits, centres = objectness.float(), memory.centres.expand(len(targets), -1, -1)
    sizes = memory.typical_sizes.expand(len(targets), -1, -1)
    wanted = torch.stack([gaussian_targets(c, s, t["boxes"]) for c, s, t in zip(centres, sizes, targets, strict=True)])
    lost = (wanted - logits.sigmoid()).square() * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    if LABELLED in targets[0]:
        partly = torch.stack([~t[LABELLED].all() for t in targets])[:, None]
        lost = lost.masked_fill(partly & (wanted < AT_SIDE) & (logits > 0), 0)
    if memory.is_padding is not None:
        lost = lost.masked_fill(memory.is_padding, 0)
    return lost.sum()


def gaussian_targets(
    centres: Float[Tensor, "N 2"], sizes: Float[Tensor, "N 2"], boxes_cxcywh: Float[Tensor, "M 4"]
) -> Float[Tensor, " N"]:
    """Target of each cell: a Gaussian that is close to 0 at the sides of a box.

    With several levels, a box belongs to the level whose typical size is closest to its own. Of this level, the cell nearest to
    the centre of a box has the value 1. Where boxes overlap, the maximum counts.

    Parameters
    ----------
    centres : centres (x, y) of the cells, relative to the unpadded image
    sizes : typical width and height of the objects of each cell's level, relative to the unpadded image
    boxes_cxcywh : boxes of the objects, in [0, 1]
    """
    if not len(boxes_cxcywh):
        return centres.new_zeros(len(centres))
    return gaussians(centres, sizes, boxes_cxcywh).amax(1)


def gaussians(
    centres: Float[Tensor, "N 2"], sizes: Float[Tensor, "N 2"], boxes_cxcywh: Float[Tensor, "M 4"]
) -> Float[Tensor, "N M"]:
    """The Gaussian of each box, at least one, see `gaussian_targets`."""
    offset = centres[:, None] - boxes_cxcywh[None, :, :2].float()
    half = boxes_cxcywh[None, :, 2:].float().clamp(min=1e-6) / 2
    height = torch.exp(-(offset / half).square().sum(-1) / (2 * WIDTH**2))
    unlike = (sizes.log().sum(-1)[:, None] - (2 * half[0]).log().sum(-1)).abs()  # of areas
    belongs = unlike <= unlike.amin(0) + SAME_LEVEL
    nearest = offset.abs().sum(-1).masked_fill(~belongs, torch.inf).argmin(0)
    return height.masked_fill(~belongs, 0).scatter(0, nearest[None], 1.0)
