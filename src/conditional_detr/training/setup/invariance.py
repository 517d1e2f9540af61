"""Detect whether the images of a data set have an upright orientation. If not, augmentation may flip and transpose them.

The test compares the positions of edges in images and objects before and after a flip or transposition. If a linear classifier
cannot distinguish the two, flips and transpositions are safe.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from conditional_detr.data.index import SplitIndex
from conditional_detr.errors import ConditionalDETRError
from conditional_detr.images.decoding import decode

IMAGES, OBJECTS = 64, 4  # number of sampled images, and of sampled objects per class in each of them
MIN_SAMPLES = 20  # minimum number of images, and of objects, for a result
MAX_TOTAL_PIXELS = 150e6  # maximum number of pixels of all sampled images together
IMAGE_PX, IMAGE_GRID = 192, 3  # images are resized to this size and divided into 3 × 3 cells
OBJECT_PX, OBJECT_GRID = 48, 6  # likewise for crops of objects
MARGIN = 1.1  # side of an object's crop, as a multiple of the longer side of its box
SMALLEST_PX = 6  # smaller crops are ignored
EQUAL = 1e-3  # edge strengths that differ by at most this much are equal
SQUARE = 0.1  # a box with |log(width / height)| up to this value is neither wide nor tall

# Name of the field of the recipe → transformation.
TURNS: dict[str, Callable[[Tensor], Tensor]] = {"vflip": lambda x: x.flip(-2), "transpose": lambda x: x.transpose(-2, -1)}


class EdgeProfiles(NamedTuple):
    """Edge strengths in the images of a data set and in its objects.

    Attributes
    ----------
    images : [N, 3, 3], edge strength in each cell of the sampled images
    objects : [n, 6, 6] for each class, edge strength in each cell of the sampled objects
    aspects : log(width / height) of all boxes of the split
    """

    images: Tensor
    objects: list[Tensor]
    aspects: Tensor


def edge_profiles(index: SplitIndex) -> EdgeProfiles:
    """Compute the edge profiles of sampled images and objects. The sample is the same on every call."""
    rng = np.random.default_rng(0)
    images: list[Tensor] = []
    objects: dict[int, list[Tensor]] = {}
    for i in some_images(index, rng):
        try:
            rgb = decode(index.paths[i])
            index.check_size(i, (rgb.shape[-2], rgb.shape[-1]))
        except ConditionalDETRError:  # training reports it
            continue
        images.append(edge_density_grid(rgb, IMAGE_PX, IMAGE_GRID))
        boxes, labels = index.objects(i)
        for label in np.unique(labels):
            for left, top, right, bottom in boxes[rng.permutation(np.flatnonzero(labels == label))[:OBJECTS]]:
                centre, side = ((left + right) / 2, (top + bottom) / 2), MARGIN * max(right - left, bottom - top)
                cut = around(rgb, float(centre[0]), float(centre[1]), float(side))
                if cut is not None:
                    objects.setdefault(int(label), []).append(edge_density_grid(cut, OBJECT_PX, OBJECT_GRID))
    extent = torch.from_numpy(index.boxes_xyxy[:, 2:] - index.boxes_xyxy[:, :2])
    aspects = (extent[:, 0] / extent[:, 1]).log()
    stacked = torch.stack(images) if images else torch.zeros(0, IMAGE_GRID, IMAGE_GRID)
    return EdgeProfiles(stacked, [torch.stack(each) for each in objects.values()], aspects)


def some_images(index: SplitIndex, rng: np.random.Generator) -> list[int]:
    """Positions of the sampled images in the index. Fewer images are sampled if they are large, because decoding takes long."""
    drawn = rng.permutation(len(index))[:IMAGES]
    within = np.cumsum(index.sizes_hw[drawn].prod(1)) <= MAX_TOTAL_PIXELS
    return [int(i) for i in drawn[: max(MIN_SAMPLES, int(within.sum()))]]


def around(rgb: Tensor, x: float, y: float, side: float) -> Tensor | None:
    """Crop the square around a point (x, y, px). None if it is very small or not completely inside the image."""
    left, top, right, bottom = (round(float(v)) for v in (x - side / 2, y - side / 2, x + side / 2, y + side / 2))
    if min(left, top) < 0 or right > rgb.shape[-1] or bottom > rgb.shape[-2] or min(right - left, bottom - top) < SMALLEST_PX:
        return None
    return rgb[:, top:bottom, left:right]


def edge_density_grid(rgb: Tensor, px: int, grid: int) -> Tensor:
    """Edge strength in each cell of an image, [grid, grid], normalised to zero mean and unit standard deviation.

    Edges are used because they hardly depend on the direction of the light.
    """
    gray = TF.resize(rgb, [px, px], antialias=True).float().mean(0)
    # Both directions are computed separately, so that transforming the image transforms the result in exactly the same way.
    parts = sum(F.adaptive_avg_pool2d(gray.diff(dim=axis).abs().log1p()[None], grid)[0] for axis in (0, 1))
    assert isinstance(parts, Tensor)
    return (parts - parts.mean()) / parts.std().clamp(min=1e-3)


def leave_one_out_accuracy(profiles: Tensor, turn: Callable[[Tensor], Tensor]) -> float:
    """Fraction of profiles that a linear classifier can distinguish from their transformed versions; 0.5 is chance.

    Each pair is classified by a classifier that was fitted on the other pairs. Pairs of equal profiles are ignored.
    """
    differences = (profiles - turn(profiles)).flatten(1).double()
    differences = differences[differences.abs().amax(1) > EQUAL]
    return float((unseen_scores(differences) > 0).double().mean()) if len(differences) else 0.5


def unseen_scores(differences: Tensor) -> Tensor:
    """Leave-one-out predictions of a ridge regression with target 1, for each row of [N, D].

    The regularisation strength is the mean squared norm of the rows.

    Source: closed form of leave-one-out, 1 − α_i / [(K + I)⁻¹]_ii with α = (K + I)⁻¹ 1, where K is the matrix of the rows' dot
    products divided by the regularisation strength.
    """
    products = differences @ differences.T
    inverse: Tensor = torch.linalg.inv(products / products.diagonal().mean() + torch.eye(len(products), dtype=products.dtype))
    return 1 - inverse.sum(1) / inverse.diagonal()


def orientation_score(profiles: EdgeProfiles, turn: str) -> float | None:
    """Score for how well a transformation can be recognised, from about 0.5 (chance) to 1. None for too few images or objects.

    It is the maximum over four measures:

    - the leave_one_out_accuracy of images
    - the mean leave_one_out_accuracy of all objects
    - the leave_one_out_accuracy of the objects of one class, minus its standard error under chance, 1 / (2 √n)
    - for `transpose`, the fraction of boxes that are wide, or that are tall
    """
    num_objects = sum(map(len, profiles.objects))
    if min(len(profiles.images), num_objects) < MIN_SAMPLES:
        return None
    shares = [(leave_one_out_accuracy(each, TURNS[turn]), len(each)) for each in profiles.objects]
    of_all = sum(share * number for share, number in shares) / num_objects
    of_a_class = max(share - 0.5 / number**0.5 for share, number in shares)
    leaning = profiles.aspects[profiles.aspects.abs() > SQUARE].sign()
    wide = 0.5 + float(leaning.sum()) / len(profiles.aspects) / 2 if turn == "transpose" else 0.5
    return float(max(leave_one_out_accuracy(profiles.images, TURNS[turn]), of_all, of_a_class, wide, 1 - wide))
