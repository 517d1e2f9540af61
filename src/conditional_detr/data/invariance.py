"""Whether anything in the pictures of a data set tells how they are held: if not, they may be mirrored and turned."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from conditional_detr.data.index import CocoIndex
from conditional_detr.errors import ConditionalDETRError
from conditional_detr.images.decoding import decode

PICTURES, OBJECTS = 64, 4  # that are looked at: pictures, and objects of each class in each of them
FEWEST = 20  # pictures, and objects, that say something
MOST_PIXELS = 150e6  # of all of these pictures
PICTURE_PX, PICTURE_GRID = 192, 3  # a picture's size when it is looked at, and the parts of a side that are compared
OBJECT_PX, OBJECT_GRID = 48, 6
MARGIN = 1.1  # of an object's longer side, that is looked at
SMALLEST_PX = 6  # of a side, that is looked at
EQUAL = 1e-3  # difference of strengths that is none
SQUARE = 0.1  # |log(width / height)|, up to where a box is neither wide nor high

# By the recipe's fields.
TURNS: dict[str, Callable[[Tensor], Tensor]] = {"vflip": lambda x: x.flip(-2), "transpose": lambda x: x.transpose(-2, -1)}


class Looks(NamedTuple):
    """Where edges lie: [N, 3, 3] of pictures, and of objects by class [n, 6, 6]; and log(width / height) of all boxes."""

    pictures: Tensor
    objects: list[Tensor]
    aspects: Tensor


def looks_of(index: CocoIndex) -> Looks:
    """Of some pictures of a data set, drawn at random but always the same, and of some objects in each of them."""
    rng = np.random.default_rng(0)
    pictures: list[Tensor] = []
    objects: dict[int, list[Tensor]] = {}
    for i in some_pictures(index, rng):
        try:
            rgb = decode(index.paths[i])
            index.check_size(i, (rgb.shape[-2], rgb.shape[-1]))
        except ConditionalDETRError:  # training says so
            continue
        pictures.append(where_edges_lie(rgb, PICTURE_PX, PICTURE_GRID))
        boxes, labels = index.objects(i)
        for label in np.unique(labels):
            for left, top, right, bottom in boxes[rng.permutation(np.flatnonzero(labels == label))[:OBJECTS]]:
                cut = around(rgb, (left + right) / 2, (top + bottom) / 2, MARGIN * max(right - left, bottom - top))
                if cut is not None:
                    objects.setdefault(int(label), []).append(where_edges_lie(cut, OBJECT_PX, OBJECT_GRID))
    extent = torch.from_numpy(index.boxes_xyxy[:, 2:] - index.boxes_xyxy[:, :2])
    aspects = (extent[:, 0] / extent[:, 1]).log()
    seen = torch.stack(pictures) if pictures else torch.zeros(0, PICTURE_GRID, PICTURE_GRID)
    return Looks(seen, [torch.stack(each) for each in objects.values()], aspects)


def some_pictures(index: CocoIndex, rng: np.random.Generator) -> list[int]:
    """Places in the index of those that are looked at: few where they are so large that decoding them takes long."""
    drawn = rng.permutation(len(index))[:PICTURES]
    within = np.cumsum(index.sizes_hw[drawn].prod(1)) <= MOST_PIXELS
    return [int(i) for i in drawn[: max(FEWEST, int(within.sum()))]]


def around(rgb: Tensor, x: float, y: float, side: float) -> Tensor | None:
    """The square around a point, px; None where it is very small or not all of it is in the picture."""
    left, top, right, bottom = (round(float(v)) for v in (x - side / 2, y - side / 2, x + side / 2, y + side / 2))
    if min(left, top) < 0 or right > rgb.shape[-1] or bottom > rgb.shape[-2] or min(right - left, bottom - top) < SMALLEST_PX:
        return None
    return rgb[:, top:bottom, left:right]


def where_edges_lie(rgb: Tensor, px: int, grid: int) -> Tensor:
    """How strong edges are in each part of a picture, [grid, grid], without its mean and spread: where light falls from, which
    says nothing of what is upright, is hardly seen in it.
    """
    gray = TF.resize(rgb, [px, px], antialias=True).float().mean(0)
    # Each direction by itself, so that a turned picture has exactly the turned strengths.
    parts = sum(F.adaptive_avg_pool2d(gray.diff(dim=axis).abs().log1p()[None], grid)[0] for axis in (0, 1))
    assert isinstance(parts, Tensor)
    return (parts - parts.mean()) / parts.std().clamp(min=1e-3)


def told_apart(looks: Tensor, turn: Callable[[Tensor], Tensor]) -> float:
    """Of pictures and the same ones turned, the share of pairs that a linear rule tells apart which has not seen them: half of
    them by chance. Pairs of equals are left out.
    """
    differences = (looks - turn(looks)).flatten(1).double()
    differences = differences[differences.abs().amax(1) > EQUAL]
    return float((unseen_scores(differences) > 0).double().mean()) if len(differences) else 0.5


def unseen_scores(differences: Tensor) -> Tensor:
    """What ridge regression of 1 on all other rows gives for each row of [N, D]; its strength is their mean square.

    Source: leave-one-out in closed form, 1 − α_i / [(K + I)⁻¹]_ii with α = (K + I)⁻¹ 1 and K of the scaled rows' products.
    """
    products = differences @ differences.T
    inverse: Tensor = torch.linalg.inv(products / products.diagonal().mean() + torch.eye(len(products), dtype=products.dtype))
    return 1 - inverse.sum(1) / inverse.diagonal()


def how_upright(looks: Looks, turn: str) -> float | None:
    """How surely pictures, objects or the shapes of boxes tell that they were turned, from about a half up to 1; None where
    there are too few to say.

    Of objects counts what holds for all of them, or for a class: its share less its standard error by chance, 1 / 2√n.
    """
    seen = sum(map(len, looks.objects))
    if min(len(looks.pictures), seen) < FEWEST:
        return None
    shares = [(told_apart(each, TURNS[turn]), len(each)) for each in looks.objects]
    of_all = sum(share * number for share, number in shares) / seen
    of_a_class = max(share - 0.5 / number**0.5 for share, number in shares)
    leaning = looks.aspects[looks.aspects.abs() > SQUARE].sign()
    wide = 0.5 + float(leaning.sum()) / len(looks.aspects) / 2 if turn == "transpose" else 0.5
    return float(max(told_apart(looks.pictures, TURNS[turn]), of_all, of_a_class, wide, 1 - wide))
