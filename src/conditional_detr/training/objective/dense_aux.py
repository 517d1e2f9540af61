"""An auxiliary loss while training: which class lies at each cell of the memory."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from conditional_detr.model.heads.classification import PRIOR_LOGIT
from conditional_detr.training.objective.losses import sigmoid_focal_loss


class DenseClassifier(nn.Module):
    """A linear head on the encoder's memory, for training only: which classes have an object over this cell?

    Matching gives one query an object, so at first hardly any gradient says what an object looks like. Here every cell
    inside a box says so, from the first step on and without attention in between. Nothing of it is kept for inference.

    Source: engineering, in the spirit of Co-DETR's auxiliary heads; measured in docs/experiments.md.

    Parameters
    ----------
    dim, num_classes : D and K
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, num_classes)
        nn.init.constant_(self.head.bias, PRIOR_LOGIT)

    def forward(
        self,
        memory: Float[Tensor, "B N D"],
        centres: Float[Tensor, "_ N 2"],
        is_padding: Bool[Tensor, "B N"] | None,
        targets: list[dict[str, Tensor]],
    ) -> Float[Tensor, ""]:
        """Focal loss over an image's cells that are no padding, divided by the number of its cells inside boxes; the mean
        of the images, so that a batch may be worked through in parts.

        Parameters
        ----------
        memory : of the encoder
        centres : of the cells, relative to the unpadded image
        is_padding : cells that are padding
        targets : as `SetCriterion` wants them
        """
        logits = self.head(memory.float())
        of_each = zip(centres.expand(len(targets), -1, -1), targets, strict=True)
        wanted = torch.stack([cells_inside(c, t, logits.shape[-1]) for c, t in of_each])
        losses = sigmoid_focal_loss(logits, wanted)
        if is_padding is not None:
            losses = losses.masked_fill(is_padding[..., None], 0)
        return (losses.sum((1, 2)) / wanted.sum((1, 2)).clamp(min=1)).mean()


def cells_inside(
    centres: Float[Tensor, "N 2"], target: dict[str, Tensor], num_classes: int
) -> Float[Tensor, "N {num_classes}"]:
    """1 where the cell's centre lies in a box of the class; the cell nearest to a box's centre always counts."""
    wanted = centres.new_zeros(len(centres), num_classes)
    if not len(target["labels"]):
        return wanted
    offset = (centres[:, None] - target["boxes"][None, :, :2]).abs()
    inside = (offset < target["boxes"][None, :, 2:] / 2).all(-1)
    nearest = offset.sum(-1).argmin(0)
    inside = inside.scatter(0, nearest[None], True)
    cell, box = inside.nonzero(as_tuple=True)
    wanted[cell, target["labels"][box]] = 1
    return wanted
