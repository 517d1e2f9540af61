"""Necks, which turn the feature maps of the backbone into the levels of the memory.

To add a variant, write a class and add it to `NECKS`, and to `NECKS_OF_SEVERAL_LEVELS` if it makes more than one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.errors import ConfigError
from conditional_detr.model.backbone.timm_backbone import Backbone
from conditional_detr.model.precision import autocast_on_cpu, float32_region

Map = Float[Tensor, "B _ _ _"]
GROUPS = 32  # of the group norm
LAST_STRIDE = 32  # of the stages of a backbone; coarser levels come from strided convolutions


class Neck(Protocol):
    """A module that computes the levels of the memory, each [B, D, h, w], the finest first."""

    def __init__(self, channels: Sequence[int], dim: int, levels: int) -> None:
        """Build a neck for backbone feature maps with these numbers of channels."""

    @staticmethod
    def backbone_strides(strides: Sequence[int], dilation: bool) -> list[int]:
        """Strides of the backbone feature maps that are needed for memory levels with the given strides."""

    def check(self, backbone: Backbone, strides: Sequence[int]) -> None:
        """Raise `ConfigError` if the feature maps of the backbone do not fit."""

    def __call__(self, maps: list[Map]) -> list[Map]: ...


def convolution(channels: int, dim: int, kernel: int = 1) -> nn.Conv2d:
    """A 1 × 1 convolution, or a 3 × 3 convolution that halves the resolution."""
    return nn.Conv2d(channels, dim, kernel, stride=1 if kernel == 1 else 2, padding=kernel // 2)


class LastMap(nn.Conv2d):
    """One level: a 1 × 1 convolution of the last feature map, as in the paper."""

    def __init__(self, channels: Sequence[int], dim: int, levels: int = 1) -> None:
        super().__init__(channels[-1], dim, kernel_size=1)

    @staticmethod
    def backbone_strides(strides: Sequence[int], dilation: bool) -> list[int]:
        return list(strides)

    def check(self, backbone: Backbone, strides: Sequence[int]) -> None:
        """Accept any backbone."""

    def forward(self, maps: list[Map]) -> list[Map]:  # type: ignore[override]
        return [super().forward(maps[-1])]


class NormalisedConv(nn.Module):
    """A convolution and a group norm."""

    def __init__(self, channels: int, dim: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = convolution(channels, dim, kernel)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, dim), dim)
        assert self.conv.bias is not None
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Map) -> Map:
        return self.norm(self.conv(x))


class NormalisedMap(NormalisedConv):
    """One level: a 1 × 1 convolution of the last feature map, then a group norm (Deformable DETR)."""

    def __init__(self, channels: Sequence[int], dim: int, levels: int = 1) -> None:
        super().__init__(channels[-1], dim)

    @staticmethod
    def backbone_strides(strides: Sequence[int], dilation: bool) -> list[int]:
        return list(strides)

    def check(self, backbone: Backbone, strides: Sequence[int]) -> None:
        """Accept any backbone."""

    def forward(self, maps: list[Map]) -> list[Map]:  # type: ignore[override]
        return [super().forward(maps[-1])]


class SpaceToDepth(nn.Conv2d):
    """One level: a 1 × 1 convolution of the last feature map, concatenated with the previous one.

    Each cell of the last map gets the 2 × 2 cells of the previous map that it covers. The finer map shows where within a cell
    an object ends.
    """

    def __init__(self, channels: Sequence[int], dim: int, levels: int = 1) -> None:
        previous, last = channels
        super().__init__(last + 4 * previous, dim, kernel_size=1)

    @staticmethod
    def backbone_strides(strides: Sequence[int], dilation: bool) -> list[int]:
        if dilation:
            raise ConfigError("neck = 'space_to_depth' and dilation = true cannot be combined")
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


class SeveralMaps(nn.Module):
    """Several levels: a 1 × 1 convolution of each feature map. Levels coarser than the last map are 3 × 3 convolutions of it.

    Parameters
    ----------
    channels, dim : numbers of channels of the feature maps, and D
    levels : number of levels
    """

    level: ClassVar[Callable[[int, int, int], nn.Module]]  # (number of channels, D, size of the kernel) → module of a level

    def __init__(self, channels: Sequence[int], dim: int, levels: int) -> None:
        super().__init__()
        coarser = levels - len(channels)
        sizes = [*((width, 1) for width in channels), *[(channels[-1], 3)] * coarser]
        self.levels = nn.ModuleList(type(self).level(width, dim, kernel) for width, kernel in sizes)

    @staticmethod
    def backbone_strides(strides: Sequence[int], dilation: bool) -> list[int]:
        return [stride for stride in strides if stride <= LAST_STRIDE]

    def check(self, backbone: Backbone, strides: Sequence[int]) -> None:
        """Accept any backbone."""

    def forward(self, maps: list[Map]) -> list[Map]:
        inputs = maps + maps[-1:] * (len(self.levels) - len(maps))
        return [level(x) for level, x in zip(self.levels, inputs, strict=True)]


class ConvolvedMaps(SeveralMaps):
    """`SeveralMaps` with convolutions alone."""

    level = staticmethod(convolution)


class NormalisedMaps(SeveralMaps):
    """`SeveralMaps` with a group norm after each convolution (Deformable DETR)."""

    level = NormalisedConv


def neck_kind(name: str, strides: Sequence[int]) -> type[Any]:
    """The class of a neck, see `Neck`, for levels with these strides.

    Raises
    ------
    ConfigError : it makes only one level
    """
    kinds = NECKS if len(strides) == 1 else NECKS_OF_SEVERAL_LEVELS
    if name not in kinds:
        raise ConfigError(f"neck = {name!r} makes one level: strides must have one entry, not {list(strides)}")
    return kinds[name]


NECKS: dict[str, type[Any]] = {"last": LastMap, "group_norm": NormalisedMap, "space_to_depth": SpaceToDepth}
NECKS_OF_SEVERAL_LEVELS: dict[str, type[Any]] = {"last": ConvolvedMaps, "group_norm": NormalisedMaps}
