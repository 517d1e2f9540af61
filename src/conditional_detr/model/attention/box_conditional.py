"""Conditional cross-attention that also knows the box of the layer before."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from conditional_detr.boxes import cxcywh_to_xyxy
from conditional_detr.model.attention.conditional import ConditionalCrossAttention
from conditional_detr.model.attention.kernels import attend, blocked_keys, split_heads
from conditional_detr.model.memory import Memory
from conditional_detr.model.mlp import MLP
from conditional_detr.model.precision import FLOAT32
from conditional_detr.model.queries import Queries

HIDDEN = 32  # width of the hidden layer that turns distances into a bias


class BoxBias(nn.Module):
    """(boxes [B, Q, 4], Memory) → bias [B, H, Q, N] of the attention logits: where a cell lies relative to the sides of a box.

    The bias is the sum of a part for the column and a part for the row of a cell. Each comes from the signed distances to two
    opposite sides, in units of the image and of the box. It is zero at the start of training.

    Source: box-to-pixel relative position bias of Plain DETR (Lin et al., ICCV 2023), in its axial form.
    """

    export_precision = FLOAT32

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.columns, self.rows = (MLP(4, HIDDEN, num_heads, num_layers=2) for _ in range(2))
        for mlp in (self.columns, self.rows):
            nn.init.zeros_(mlp.last.weight)
            nn.init.zeros_(mlp.last.bias)

    @torch.no_grad()
    def initialise(self) -> None:
        """Start without a bias."""
        for mlp in (self.columns, self.rows):
            nn.init.zeros_(mlp.last.weight)
            nn.init.zeros_(mlp.last.bias)

    def forward(self, boxes: Float[Tensor, "B Q 4"], memory: Memory) -> Float[Tensor, "B H Q N"]:
        x0, y0, x1, y1 = cxcywh_to_xyxy(boxes).unbind(-1)
        levels = []
        for centres, (height, width) in zip(memory.levels(memory.centres), memory.shapes, strict=True):
            grid = centres.unflatten(1, (height, width))
            of_columns = self.columns(distances(grid[:, 0, :, 0], x0, x1)).permute(0, 3, 1, 2)  # [B, H, Q, w]
            of_rows = self.rows(distances(grid[:, :, 0, 1], y0, y1)).permute(0, 3, 1, 2)
            levels.append((of_rows[..., None] + of_columns[..., None, :]).flatten(-2))
        return torch.cat(levels, dim=-1)


def distances(places: Float[Tensor, "_ n"], low: Float[Tensor, "B Q"], high: Float[Tensor, "B Q"]) -> Float[Tensor, "B Q n 4"]:
    """Signed distances of places to both sides of boxes along one axis, in units of the image and of the box, compressed."""
    size = (high - low).clamp(min=1e-3)[..., None]
    from_low, to_high = places[:, None] - low[..., None], high[..., None] - places[:, None]
    each = torch.stack([8 * from_low, 8 * to_high, from_low / size, to_high / size], dim=-1)
    return each.sign() * each.abs().log1p()


class BoxConditionalCrossAttention(ConditionalCrossAttention):
    """Conditional cross-attention of the later layers, with a bias from the box of the layer before."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(dim, num_heads, dropout)
        self.box_bias = BoxBias(num_heads)

    def forward(self, queries: Queries, memory: Memory) -> Float[Tensor, "B Q D"]:
        c_q, c_k, p_q, p_k = self.project(queries, memory)
        query, key = torch.cat([c_q, p_q], dim=-1), torch.cat([c_k, p_k], dim=-1)
        value = split_heads(self.v(memory.tokens), self.num_heads)
        dropout = self.dropout if self.training else 0.0
        return self.out(attend(query, key, value, blocked_keys(memory.is_padding), dropout, self.box_bias(queries.box, memory)))
