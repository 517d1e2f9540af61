"""The memory that queries attend to: the cells of one or more feature maps, with their positions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from conditional_detr.model.positional import Grid, cell_counts, sine_embedding

TYPICAL_CELLS = 4.0  # cells along a side of an object that belongs to a level


class Memory(NamedTuple):
    """The N cells of all levels. The levels are concatenated, the finest first.

    Attributes
    ----------
    tokens : [B, N, D], features of the cells
    position : [B or 1, N, D], the sine embedding of `points`, or of the points that the grid shifts; an encoder may add to it
    points : [B or 1, N, 2], lower right corner of each cell, relative to the unpadded image; may lie outside the image
    is_padding : bool [B, N], True for cells that are padding; None if nothing is padded
    shapes : (h, w) of each of the S levels
    extents : [B or 1, S, 2], width and height of the unpadded image in the cells of each level
    """

    tokens: Tensor
    position: Tensor
    points: Tensor
    is_padding: Tensor | None
    shapes: tuple[tuple[int, int], ...]
    extents: Tensor

    def levels(self, x: Shaped[Tensor, "_ N *rest"]) -> list[Shaped[Tensor, "_ _ *rest"]]:
        """Split values of all cells [_, N, …] into one tensor per level."""
        return list(torch.split(x, [height * width for height, width in self.shapes], dim=1))

    def maps(self, x: Shaped[Tensor, "B N C"]) -> list[Shaped[Tensor, "B C _ _"]]:
        """Reshape values of all cells [B, N, C] into one map [B, C, h, w] per level."""
        levels = zip(self.levels(x), self.shapes, strict=True)
        return [level.transpose(1, 2).reshape(*level.shape[::2], *shape) for level, shape in levels]

    def only(self, level: int) -> "Memory":
        """The memory of a single level."""
        tokens, position, points = (self.levels(x)[level] for x in self[:3])
        is_padding = None if self.is_padding is None else self.levels(self.is_padding)[level]
        return Memory(
            tokens, position, points, is_padding, self.shapes[level : level + 1 or None], self.extents[:, level, None]
        )

    @property
    def valid_ratios(self) -> Float[Tensor, "_ S 2"]:
        """Share of the width and of the height of each level that is not padding."""
        sizes = torch.tensor([[width, height] for height, width in self.shapes], device=self.tokens.device)
        return self.extents / sizes

    @property
    def typical_sizes(self) -> Float[Tensor, "_ N 2"]:
        """Width and height of an object that belongs to the level of each cell, relative to the unpadded image."""
        sizes = TYPICAL_CELLS / self.extents
        return joined([sizes[:, i, None].expand(-1, h * w, -1) for i, (h, w) in enumerate(self.shapes)])

    @property
    def centres(self) -> Float[Tensor, "_ N 2"]:
        """Centre of the part of each cell that lies inside the unpadded image."""
        sizes = joined([level[:, :1].expand_as(level) for level in self.levels(self.points)])
        return (self.points - sizes + self.points.clamp(max=1)) / 2


def build_memory(
    maps: Sequence[Float[Tensor, "B D _ _"]],
    images: Float[Tensor, "B 3 H W"],
    padding_mask: Bool[Tensor, "B H W"] | None,
    grid: Grid,
) -> Memory:
    """Turn feature maps into a memory, the input of the encoder.

    Parameters
    ----------
    maps : one feature map per level, the finest first
    images, padding_mask : the input of the network, as in `DETR.forward`
    grid : positions of the cells of the levels
    """
    points, places, padding, extents = [], [], [], []
    for x, stride in zip(maps, grid.strides, strict=True):
        is_padding = shrink_mask(padding_mask, x)
        counts = cell_counts(is_padding, x.shape[-2], x.shape[-1], x.device)
        size = grid.extent(counts, images, padding_mask, stride)
        points.append((counts / size[:, None, None]).flatten(1, 2))
        places.append(((counts - grid.shift) / size[:, None, None]).flatten(1, 2))
        extents.append(size)
        padding.append(None if is_padding is None else is_padding.flatten(1))
    return Memory(
        tokens=joined([x.flatten(2).transpose(1, 2) for x in maps]),
        position=sine_embedding(joined(places), maps[0].shape[1]),
        points=joined(points),
        is_padding=None if padding_mask is None else joined([mask for mask in padding if mask is not None]),
        shapes=tuple((x.shape[-2], x.shape[-1]) for x in maps),
        extents=torch.stack(extents, dim=1),
    )


def joined(levels: list[Tensor]) -> Tensor:
    """Concatenate the cells of all levels, each [_, n, …]. A single level is returned without a copy."""
    return levels[0] if len(levels) == 1 else torch.cat(levels, dim=1)


def shrink_mask(padding_mask: Bool[Tensor, "B H W"] | None, features: Float[Tensor, "B D h w"]) -> Bool[Tensor, "B h w"] | None:
    """Resize a padding mask to the size of a feature map. Each cell takes the value of its top left pixel (nearest)."""
    if padding_mask is None:
        return None
    return F.interpolate(padding_mask[:, None].float(), size=features.shape[-2:])[:, 0].bool()
