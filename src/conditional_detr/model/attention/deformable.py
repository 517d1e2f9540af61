"""The attention of Deformable DETR: each head reads the memory at a few places near a reference point."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.memory import Memory, joined
from conditional_detr.model.precision import BF16_OR_HIGHER, FLOAT32, float32_region
from conditional_detr.model.queries import Queries


class SamplingOffsets(nn.Linear):
    """Predicts where to sample, as offsets from the reference point."""

    export_precision = FLOAT32
    lr_scale = 0.1


class SamplingWeights(nn.Linear):
    """Predicts the weights of the samples, before the softmax."""

    export_precision = BF16_OR_HIGHER


class DeformableAttention(nn.Module):
    """Each head samples each level of the memory at a few places, and adds the samples with predicted weights.

    Places and weights are predicted from the query alone; no keys are compared. The softmax of the weights is over all levels
    and points. Samples outside a feature map and samples of padding are zero.

    Source: Zhu et al., Deformable DETR, ICLR 2021, eq. 3, and released code.

    Parameters
    ----------
    dim, num_heads : D and H
    dropout : not used; the attention of Deformable DETR has no dropout
    levels, points : number of memory levels S, and of samples P per head and level
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, levels: int = 1, points: int = 4) -> None:
        super().__init__()
        self.num_heads, self.levels, self.points = num_heads, levels, points
        self.offsets = SamplingOffsets(dim, num_heads * levels * points * 2)
        self.weights = SamplingWeights(dim, num_heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise so that head h looks in the direction 2πh/H from the start, at distances of 1, 2, … cells."""
        turn = 2 * math.pi * torch.arange(self.num_heads) / self.num_heads
        direction = torch.stack([turn.cos(), turn.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.points + 1)
        places = direction[:, None, None] * distance[:, None]  # [H, 1, P, 2]
        nn.init.zeros_(self.offsets.weight)
        self.offsets.bias.copy_(places.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        nn.init.zeros_(self.value.bias)

    def attend(
        self, query: Float[Tensor, "_ Q D"], reference: Float[Tensor, "_ Q S R"], memory: Memory
    ) -> Float[Tensor, "B Q D"]:
        """Attention of queries with given reference points or boxes on each level.

        Parameters
        ----------
        query : queries with their positions
        reference : (x, y) or (cx, cy, w, h) for each level, relative to the padded feature map
        """
        value = self.value(memory.tokens)
        if memory.is_padding is not None:
            value = value.masked_fill(memory.is_padding[..., None], 0)
        with float32_region(query):  # in 16 bits, a place can be off by half a cell
            places, weights = self.places(query.float(), reference, memory)
            maps = memory.maps(value.float())
            sampled = sample(maps, places.expand(value.shape[0], *places.shape[1:]), weights, self.num_heads)
        return self.out(sampled.to(value.dtype))

    def places(
        self, query: Float[Tensor, "_ Q D"], reference: Float[Tensor, "_ Q S R"], memory: Memory
    ) -> tuple[Float[Tensor, "_ Q H S P 2"], Float[Tensor, "_ Q H S P"]]:
        """Places of the samples, (x, y) relative to the padded feature map of each level, and their weights.

        Offsets from a point are in cells. Offsets from a box are in halves of its width and height, divided by P.
        """
        offsets = self.offsets(query).unflatten(-1, (self.num_heads, self.levels, self.points, 2))
        if reference.shape[-1] == 2:
            unit = 1 / torch.tensor([[width, height] for height, width in memory.shapes], device=query.device)[:, None]
        else:
            unit = reference[:, :, None, :, None, 2:] / (2 * self.points)
        weights = self.weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        return reference[:, :, None, :, None, :2] + offsets * unit, weights.unflatten(-1, (self.levels, self.points))


class DeformableEncoderAttention(DeformableAttention):
    """Self-attention of the memory: each cell samples around its own centre."""

    def forward(self, memory: Memory) -> Float[Tensor, "B N D"]:
        reference = cell_centres(memory)[:, :, None] * memory.valid_ratios[:, None]
        return self.attend(memory.tokens + memory.position, reference, memory)


class DeformableCrossAttention(DeformableAttention):
    """Cross-attention: each query samples the memory around its reference point."""

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        return self.attend(queries.content + queries.position, self.on_levels(queries, memory), memory)

    def on_levels(self, queries: Queries, memory: Memory) -> Float[Tensor, "_ Q S R"]:
        """Reference points or boxes, relative to the padded feature map of each level."""
        ratios = memory.valid_ratios[:, None].repeat(1, 1, 1, queries.reference.shape[-1] // 2)
        return queries.reference[:, :, None] * ratios

    def explain(self, queries: Queries, memory: Memory, chosen: Tensor) -> Mapping[str, Tensor]:
        """What the chosen queries of the first image sample.

        Returns
        -------
        "combined" [k, H, N], the weights of the samples, distributed over the four nearest cells of each; "places"
        [k, H, S·P, 2], (x, y) in cells of the finest level, from the upper left corner of the image; "weights" [k, H, S·P]
        """
        query = (queries.content + queries.position).float()
        places, weights = self.places(query, self.on_levels(queries, memory), memory)
        places, weights = places[:1, chosen], weights[:1, chosen]
        levels = enumerate(memory.shapes)
        maps = [spread(places[0, :, :, level], weights[0, :, :, level], *shape) for level, shape in levels]
        sizes = [[2.0**level * width, 2.0**level * height] for level, (height, width) in enumerate(memory.shapes)]
        cells = places[0] * torch.tensor(sizes, device=places.device)[:, None]
        return {"combined": torch.cat(maps, -1), "places": cells.flatten(2, 3), "weights": weights[0].flatten(2)}


def spread(
    places: Float[Tensor, "*any P 2"], weights: Float[Tensor, "*any P"], height: int, width: int
) -> Float[Tensor, "*any N"]:
    """Distribute the weights of samples over the four nearest cells of each, as bilinear sampling reads them.

    Parameters
    ----------
    places : (x, y) relative to the map
    weights : weights of the samples; their shares outside the map are lost
    height, width : size of the map, cells
    """
    at = places * torch.tensor([width, height], device=places.device) - 0.5
    first = at.floor()
    found = weights.new_zeros(*weights.shape[:-1], height * width)
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = (cell := first + torch.tensor(corner, device=places.device)).long().unbind(-1)
        share = weights * (1 - (at - cell).abs()).prod(-1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        found.scatter_add_(-1, (y * width + x).where(inside, 0), share.where(inside, 0))
    return found


def cell_centres(memory: Memory) -> Float[Tensor, "_ N 2"]:
    """Centre (x, y) of each cell, relative to the unpadded image. Centres of padded cells are above 1."""
    levels = []
    for level, (height, width) in enumerate(memory.shapes):
        x, y = (torch.arange(size, device=memory.tokens.device) + 0.5 for size in (width, height))
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).flatten(0, 1)
        levels.append(grid / memory.extents[:, level, None])
    return joined(levels)


def sample(
    maps: Sequence[Float[Tensor, "B D _ _"]],
    places: Float[Tensor, "B Q H S P 2"],
    weights: Float[Tensor, "_ Q H S P"],
    num_heads: int,
) -> Float[Tensor, "B Q D"]:
    """Sample feature maps bilinearly and add the samples of each head with their weights.

    Parameters
    ----------
    maps : the values of each level; each head has D / H channels
    places : (x, y) relative to the map of each level; the centre of the first cell is at (0.5 / w, 0.5 / h)
    weights : weights of the samples
    """
    batch, queries, _, levels, points, _ = places.shape
    grids = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # [B·H, Q, S, P, 2]
    sampled = [
        F.grid_sample(
            level.reshape(batch * num_heads, -1, *level.shape[-2:]),
            grids[:, :, number],
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        for number, level in enumerate(maps)
    ]  # [B·H, d, Q, P] each
    of_heads = weights.expand(batch, *weights.shape[1:]).transpose(1, 2).reshape(batch * num_heads, 1, queries, levels * points)
    summed = (torch.cat(sampled, dim=-1) * of_heads).sum(-1)
    return summed.view(batch, -1, queries).transpose(1, 2)
