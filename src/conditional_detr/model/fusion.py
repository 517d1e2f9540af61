"""Pass what the coarsest level of the memory shows on to the finer levels."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.memory import Memory, joined
from conditional_detr.model.precision import autocast_on_cpu, float32_region


class UpwardFusion(nn.Module):
    """Adds each level, enlarged twofold, to the next finer one, from the coarsest to the finest.

    Source: the idea of RT-DETR's cross-scale fusion (Zhao et al., CVPR 2024), with a depthwise convolution instead of blocks of
    full ones.

    Parameters
    ----------
    levels, dim : number of levels S, and D
    """

    def __init__(self, levels: int, dim: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(FusionStep(dim) for _ in range(levels - 1))

    def forward(self, memory: Memory) -> Memory:
        maps = memory.maps(memory.tokens)
        padding = [None] * len(maps) if memory.is_padding is None else memory.maps(memory.is_padding[..., None])
        for level in reversed(range(len(maps) - 1)):
            maps[level] = self.steps[level](maps[level], maps[level + 1], padding[level])
        return memory._replace(tokens=joined([x.flatten(2).transpose(1, 2) for x in maps]))


class FusionStep(nn.Module):
    """(finer map, coarser map) → finer map: both are joined, mixed with their surroundings, and added to the finer one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.join = nn.Conv2d(2 * dim, dim, kernel_size=1)
        self.surroundings = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.out = nn.Conv2d(dim, dim, kernel_size=1)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        fine: Float[Tensor, "B D h w"],
        coarse: Float[Tensor, "B D _ _"],
        is_padding: Bool[Tensor, "B 1 h w"] | None,
    ) -> Float[Tensor, "B D h w"]:
        enlarged = twice_as_large(coarse, fine)
        hidden = F.relu(self.join(torch.cat([fine, enlarged], dim=1)))
        if is_padding is not None:  # the convolution sees zeros there, as beyond the border
            hidden = hidden.masked_fill(is_padding, 0)
        fused = fine + self.out(F.relu(hidden + self.mixed(hidden)))
        return self.norm(fused.movedim(1, -1)).movedim(-1, 1)

    def mixed(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """The depthwise convolution, which has no fast kernel in 16 bits on a CPU."""
        if autocast_on_cpu(x):
            with float32_region(x):
                return self.mixed(x.float())
        mixed: Tensor = self.surroundings(x)
        return mixed


def twice_as_large(coarse: Float[Tensor, "B D _ _"], fine: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
    """Enlarge a map twofold, to the size of a finer one.

    Cell (i, j) of the result is cell (i // 2, j // 2), or the last one where a backbone rounds sizes down.
    """
    rows, columns = (
        (torch.arange(size, device=coarse.device) // 2).clamp(max=given - 1)
        for size, given in zip(fine.shape[-2:], coarse.shape[-2:], strict=True)
    )
    return coarse[:, :, rows[:, None], columns]
