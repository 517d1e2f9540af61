"""Necks, which turn the feature maps of the backbone into the levels of the memory.

To add a variant, write a class and add it to `NECKS`.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.errors import ConfigError
from conditional_detr.model.backbone.timm_backbone import Backbone
from conditional_detr.model.precision import autocast_on_cpu, float32_region

Map = Float[Tensor, "B _ _ _"]
GROUPS = 32  # of the group norm


class Neck(Protocol):
    """A module that computes the levels of the memory, each [B, D, h, w], the finest first."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        """Build a neck for backbone feature maps with these numbers of channels."""

    @staticmethod
    def backbone_strides(strides: Sequence[int], dilation: bool) -> list[int]:
        """Strides of the backbone feature maps that are needed for memory levels with the given strides."""

    def check(self, backbone: Backbone, strides: Sequence[int]) -> None:
        """Raise `ConfigError` if the feature maps of the backbone do not fit."""

    def __call__(self, maps: list[Map]) -> list[Map]: ...


class LastMap(nn.Conv2d):
    """One level: a 1 × 1 convolution of the last feature map, as in the paper."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__(channels[-1], dim, kernel_size=1)

    @staticmethod
    def backbone_strides(strides: Sequence[int], dilation: bool) -> list[int]:
        if len(strides) > 1:
            raise ConfigError(f"neck = 'last' makes one level: strides must have one entry, not {list(strides)}")
        return list(strides)

    def check(self, backbone: Backbone, strides: Sequence[int]) -> None:
        """Accept any backbone."""

    def forward(self, maps: list[Map]) -> list[Map]:  # type: ignore[override]
        return [super().forward(maps[-1])]


class NormalisedMap(nn.Module):
    """One level: a 1 × 1 convolution of the last feature map, then a group norm (Deformable DETR)."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels[-1], dim, kernel_size=1)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, dim), dim)
        assert self.conv.bias is not None
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    @staticmethod
    def backbone_strides(strides: Sequence[int], dilation: bool) -> list[int]:
        if len(strides) > 1:
            raise ConfigError(f"neck = 'group_norm' makes one level: strides must have one entry, not {list(strides)}")
        return list(strides)

    def check(self, backbone: Backbone, strides: Sequence[int]) -> None:
        """Accept any backbone."""

    def forward(self, maps: list[Map]) -> list[Map]:
        return [self.norm(self.conv(maps[-1]))]


class SpaceToDepth(nn.Conv2d):
    """One level: a 1 × 1 convolution of the last feature map, concatenated with the previous one.

    Each cell of the last map gets the 2 × 2 cells of the previous map that it covers. The finer map shows where within a cell
    an object ends.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        previous, last = channels
        super().__init__(last + 4 * previous, dim, kernel_size=1)

    @staticmethod
    def backbone_strides(strides: Sequence[int], dilation: bool) -> list[int]:
        if len(strides) > 1 or dilation:
            raise ConfigError("neck = 'space_to_depth' makes one level: strides must have one entry and dilation must be false")
        return [strides[0] // 2, strides[0]]

    def check(self, backbone: Backbone, strides: Sequence[int]) -> None:
        previous, last = backbone(torch.zeros(1, 3, 2 * strides[0] + 1, 3 * strides[0] + 1))
        if space_to_depth(previous).shape[-2:] != last.shape[-2:]:
            raise ConfigError("neck = 'space_to_depth' needs a backbone whose stages round odd sizes in the same way")

    def forward(self, maps: list[Map]) -> list[Map]:  # type: ignore[override]
        previous, last = maps
        return [super().forward(torch.cat([last, space_to_depth(previous)], dim=1))]


def space_to_depth(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 4*C _ _"]:
    """Stack each 2 × 2 cells into one; at odd sizes the missing cells are zeros.

    This is a convolution, because it rounds odd sizes up as the next backbone stage does, and exporters support it for any
    size.
    """
    if autocast_on_cpu(x):
        with float32_region(x):
            return space_to_depth(x.float())
    corners = torch.eye(4, dtype=x.dtype, device=x.device).view(4, 1, 2, 2)
    return F.conv2d(F.pad(x, (0, 1, 0, 1)), corners.repeat(x.shape[1], 1, 1, 1), stride=2, groups=x.shape[1])


NECKS: dict[str, type[LastMap] | type[NormalisedMap] | type[SpaceToDepth]] = {
    "last": LastMap,
    "group_norm": NormalisedMap,
    "space_to_depth": SpaceToDepth,
}
