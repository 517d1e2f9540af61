"""Bounding box formats, IoU and GIoU.

Boxes are tensors whose last axis holds the four coordinates. All coordinates of a call must be in the same unit.
"""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Convert boxes from centre and size to corners.

    >>> cxcywh_to_xyxy(torch.tensor([0.5, 0.5, 0.2, 0.4])).tolist()
    [0.4000000059604645, 0.30000001192092896, 0.6000000238418579, 0.699999988079071]
    """
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Convert boxes from corners to centre and size."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def generalized_iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """GIoU = |A∩B| / |A∪B| − (|hull| − |A∪B|) / |hull|, elementwise over broadcast leading axes.

    To compare all boxes with all others, pass `a[:, None], b[None]`. Invalid boxes raise no error: a box without area has
    IoU 0, and non-finite boxes give non-finite values.

    Source: Rezatofighi et al., CVPR 2019, eq. 1.

    Parameters
    ----------
    boxes_xyxy, others_xyxy : [..., 4], both in the same unit

    Returns
    -------
    [...], in [-1, 1]
    """
    intersection, union = intersection_and_union(boxes_xyxy, others_xyxy)
    hull_low = torch.minimum(boxes_xyxy[..., :2], others_xyxy[..., :2])
    hull_high = torch.maximum(boxes_xyxy[..., 2:], others_xyxy[..., 2:])
    hull = (hull_high - hull_low).prod(-1)
    tiny = torch.finfo(hull.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """IoU = |A∩B| / |A∪B| in [0, 1], elementwise over broadcast leading axes."""
    intersection, union = intersection_and_union(boxes_xyxy, others_xyxy)
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def intersection_and_union(boxes_xyxy: Tensor, others_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union, elementwise, in the unit of the boxes squared."""
    low = torch.maximum(boxes_xyxy[..., :2], others_xyxy[..., :2])
    high = torch.minimum(boxes_xyxy[..., 2:], others_xyxy[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    areas = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(-1) + (others_xyxy[..., 2:] - others_xyxy[..., :2]).prod(-1)
    return intersection, areas - intersection
