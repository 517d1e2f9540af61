"""An auxiliary training loss: classify each cell of the encoder's output."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from conditional_detr.model.heads.classification import PRIOR_LOGIT
from conditional_detr.training.objective.losses import LABELLED, sigmoid_focal_loss


class DenseClassifier(nn.Module):
    """Linear head on the encoder's output that predicts which classes have an object at each cell. Used only in training.

    Matching assigns each object to a single query, so early in training few gradients describe what objects look like. This
    head gives such a gradient for every cell inside a box, from the first step and without attention in between.

    Source: our own design, similar to the auxiliary heads of Co-DETR; measured in docs/experiments.md.

    Parameters
    ----------
    dim : width of the encoder's output, D
    num_classes : number of classes, K
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
        """Focal loss of the cells that are not padding and of the classes that are labelled, averaged over images.

        The loss of each image is divided by the number of its positive (cell, class) pairs. Normalising per image allows
        processing a batch in parts.

        Parameters
        ----------
        memory : output of the encoder
        centres : centres (x, y) of the cells, relative to the unpadded image
        is_padding : True for cells that are padding; None = no padding
        targets : one dict per image, see `SetCriterion`
        """
        logits = self.head(memory.float())
        of_each = zip(centres.expand(len(targets), -1, -1), targets, strict=True)
        wanted = torch.stack([cells_inside(c, t, logits.shape[-1]) for c, t in of_each])
        losses = sigmoid_focal_loss(logits, wanted)
        if LABELLED in targets[0]:
            losses = losses.masked_fill(~torch.stack([t[LABELLED] for t in targets])[:, None], 0)
        if is_padding is not None:
            losses = losses.masked_fill(is_padding[..., None], 0)
        return (losses.sum((1, 2)) / wanted.sum((1, 2)).clamp(min=1)).mean()


def cells_inside(
    centres: Float[Tensor, "N 2"], target: dict[str, Tensor], num_classes: int
) -> Float[Tensor, "N {num_classes}"]:
    """Targets of the cells: 1 if the centre of the cell lies in a box of the class, else 0.

    The cell nearest to the centre of a box always counts as inside, so that small boxes have a cell too.
    """
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
