"""Whether anything in the images of a data set tells how they are held: if not, they may be mirrored and turned."""

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

IMAGES, OBJECTS = 64, 4  # that are looked at: images, and objects of each class in each of them
FEWEST = 20  # images, and objects, that say something
MOST_PIXELS = 150e6  # of all of these images
IMAGE_PX, IMAGE_GRID = 192, 3  # an image's size when it is looked at, and the parts of a side that are compared
OBJECT_PX, OBJECT_GRID = 48, 6
MARGIN = 1.1  # of an object's longer side, that is looked at
SMALLEST_PX = 6  # of a side, that is looked at
EQUAL = 1e-3  # difference of strengths that is none
SQUARE = 0.1  # |log(width / height)|, up to where a box is neither wide nor high

# By the recipe's fields.
TURNS: dict[str, Callable[[Tensor], Tensor]] = {"vflip": lambda x: x.flip(-2), "transpose": lambda x: x.transpose(-2, -1)}


class EdgeProfiles(NamedTuple):
    """Where edges lie: [N, 3, 3] of images, and of objects by class [n, 6, 6]; and log(width / height) of all boxes."""

    images: Tensor
    objects: list[Tensor]
    aspects: Tensor


def edge_profiles(index: SplitIndex) -> EdgeProfiles:
    """Of some images of a data set, drawn at random but always the same, and of some objects in each of them."""
    rng = np.random.default_rng(0)
    images: list[Tensor] = []
    objects: dict[int, list[Tensor]] = {}
    for i in some_images(index, rng):
        try:
            rgb = decode(index.paths[i])
            index.check_size(i, (rgb.shape[-2], rgb.shape[-1]))
        except ConditionalDETRError:  # training says so
            continue
        images.append(where_edges_lie(rgb, IMAGE_PX, IMAGE_GRID))
        boxes, labels = index.objects(i)
        for label in np.unique(labels):
            for left, top, right, bottom in boxes[rng.permutation(np.flatnonzero(labels == label))[:OBJECTS]]:
                cut = around(rgb, (left + right) / 2, (top + bottom) / 2, MARGIN * max(right - left, bottom - top))
                if cut is not None:
                    objects.setdefault(int(label), []).append(where_edges_lie(cut, OBJECT_PX, OBJECT_GRID))
    extent = torch.from_numpy(index.boxes_xyxy[:, 2:] - index.boxes_xyxy[:, :2])
    aspects = (extent[:, 0] / extent[:, 1]).log()
    stacked = torch.stack(images) if images else torch.zeros(0, IMAGE_GRID, IMAGE_GRID)
    return EdgeProfiles(stacked, [torch.stack(each) for each in objects.values()], aspects)


def some_images(index: SplitIndex, rng: np.random.Generator) -> list[int]:
    """Places in the index of those that are looked at: few where they are so large that decoding them takes long."""
    drawn = rng.permutation(len(index))[:IMAGES]
    within = np.cumsum(index.sizes_hw[drawn].prod(1)) <= MOST_PIXELS
    return [int(i) for i in drawn[: max(FEWEST, int(within.sum()))]]


def around(rgb: Tensor, x: float, y: float, side: float) -> Tensor | None:
    """The square around a point, px; None where it is very small or not all of it is in the image."""
    left, top, right, bottom = (round(float(v)) for v in (x - side / 2, y - side / 2, x + side / 2, y + side / 2))
    if min(left, top) < 0 or right > rgb.shape[-1] or bottom > rgb.shape[-2] or min(right - left, bottom - top) < SMALLEST_PX:
        return None
    return rgb[:, top:bottom, left:right]


def where_edges_lie(rgb: Tensor, px: int, grid: int) -> Tensor:
    """How strong edges are in each part of an image, [grid, grid], without its mean and spread: where light falls from, which
    says nothing of what is upright, is hardly seen in it.
    """
    gray = TF.resize(rgb, [px, px], antialias=True).float().mean(0)
    # Each direction by itself, so that a turned image has exactly the turned strengths.
    parts = sum(F.adaptive_avg_pool2d(gray.diff(dim=axis).abs().log1p()[None], grid)[0] for axis in (0, 1))
    assert isinstance(parts, Tensor)
    return (parts - parts.mean()) / parts.std().clamp(min=1e-3)


def separability(profiles: Tensor, turn: Callable[[Tensor], Tensor]) -> float:
    """Of images and the same ones turned, the share of pairs that a linear rule tells apart which has not seen them: half of
    them by chance. Pairs of equals are left out.
    """
    differences = (profiles - turn(profiles)).flatten(1).double()
    differences = differences[differences.abs().amax(1) > EQUAL]
    return float((unseen_scores(differences) > 0).double().mean()) if len(differences) else 0.5


def unseen_scores(differences: Tensor) -> Tensor:
    """What ridge regression of 1 on all other rows gives for each row of [N, D]; its strength is their mean square.

    Source: leave-one-out in closed form, 1 − α_i / [(K + I)⁻¹]_ii with α = (K + I)⁻¹ 1 and K of the scaled rows' products.
    """
    products = differences @ differences.T
    inverse: Tensor = torch.linalg.inv(products / products.diagonal().mean() + torch.eye(len(products), dtype=products.dtype))
    return 1 - inverse.sum(1) / inverse.diagonal()


def upright_evidence(profiles: EdgeProfiles, turn: str) -> float | None:
    """How surely images, objects or the shapes of boxes tell that they were turned, from about a half up to 1; None where
    there are too few to say.

    Of objects counts what holds for all of them, or for a class: its share less its standard error by chance, 1 / 2√n.
    """
    num_objects = sum(map(len, profiles.objects))
    if min(len(profiles.images), num_objects) < FEWEST:
        return None
    shares = [(separability(each, TURNS[turn]), len(each)) for each in profiles.objects]
    of_all = sum(share * number for share, number in shares) / num_objects
    of_a_class = max(share - 0.5 / number**0.5 for share, number in shares)
    leaning = profiles.aspects[profiles.aspects.abs() > SQUARE].sign()
    wide = 0.5 + float(leaning.sum()) / len(profiles.aspects) / 2 if turn == "transpose" else 0.5
    return float(max(separability(profiles.images, TURNS[turn]), of_all, of_a_class, wide, 1 - wide))
