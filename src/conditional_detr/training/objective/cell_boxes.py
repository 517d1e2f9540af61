"""Loss of the boxes that the cells of the encoder's output predict. Queries start from the best ones."""

import torch
from jaxtyping import Float
from torch import Tensor

from conditional_detr.model.memory import Memory
from conditional_detr.training.objective.losses import giou_loss, l1_loss
from conditional_detr.training.objective.objectness import gaussians

L1, GIOU = 5.0, 2.0  # weights, as in the decoder
NEAR = 0.3  # a cell learns the box of an object if its Gaussian is at least this high there


def cell_box_loss(cell_boxes: Float[Tensor, "B N 4"], memory: Memory, targets: list[dict[str, Tensor]]) -> Float[Tensor, ""]:
    """L1 and GIoU loss, weighted as in the decoder, of the cells near the centre of an object. All objects count alike.

    A cell that is near several objects learns the box of the one whose Gaussian is highest there. The cells of an object are
    weighted by its Gaussian, and their weights add up to 1.

    Parameters
    ----------
    cell_boxes : predicted boxes (cx, cy, w, h) relative to the image
    memory : positions and padding of the cells
    targets : one dict per image, see `SetCriterion`
    """
    centres, sizes = (each.expand(len(targets), -1, -1) for each in (memory.centres, memory.typical_sizes))
    losses = [cell_boxes.sum() * 0]
    for image, boxes in enumerate(target["boxes"].float() for target in targets):
        if not len(boxes):
            continue
        heights = gaussians(centres[image], sizes[image], boxes)
        if memory.is_padding is not None:
            heights = heights.masked_fill(memory.is_padding[image][:, None], 0)
        highest, objects = heights.max(1)
        cells = (highest >= NEAR).nonzero()[:, 0]
        weights, objects = highest[cells], objects[cells]
        weights = weights / weights.new_zeros(len(boxes)).index_add(0, objects, weights)[objects]
        pairs = cell_boxes[image, cells].float(), boxes[objects]
        losses.append((weights * (L1 * l1_loss(*pairs) + GIOU * giou_loss(*pairs))).sum())
    return torch.stack(losses).sum()
