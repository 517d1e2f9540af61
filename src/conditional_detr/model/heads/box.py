"""Box heads."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.decoder import keep_reference
from conditional_detr.model.memory import Memory
from conditional_detr.model.mlp import MLP
from conditional_detr.model.positional import inverse_sigmoid
from conditional_detr.model.precision import FLOAT32
from conditional_detr.model.queries import Decoded


class BoxHead(nn.Module):
    """(Decoded, Memory) → boxes [L, B, Q, 4]: b = sigmoid(MLP(f)), directly from the decoder embedding (DETR)."""

    predicts: ClassVar[str] = "boxes"
    export_precision = FLOAT32

    def __init__(self, dim: int, size_logit: float = 0.0) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, 4, num_layers=3)

    def forward(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "L B Q 4"]:
        return torch.sigmoid(self.mlp(decoded.embeddings))

    refine = staticmethod(keep_reference)  # (layer number, its embeddings, its queries) → the queries of the next layer


class OffsetBoxHead(BoxHead):
    """b = sigmoid(MLP(f) + [logit(r), 0, 0]): the centre is predicted as an offset from the reference point (section 3.1).

    The last layer of the MLP is initialised with zeros, so every box starts as (r_x, r_y, s, s) with s = sigmoid(size_logit).

    Parameters
    ----------
    dim : D
    size_logit : initial logit of width and height: 0 in the paper, -2 in Deformable DETR
    """

    def __init__(self, dim: int, size_logit: float = 0.0) -> None:
        super().__init__(dim)
        nn.init.zeros_(self.mlp.last.weight)
        nn.init.zeros_(self.mlp.last.bias)
        nn.init.constant_(self.mlp.last.bias[2:], size_logit)

    def forward(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "L B Q 4"]:
        offset = F.pad(inverse_sigmoid(decoded.references[-1]), (0, 2))  # `refine` keeps the same points in all layers
        return torch.sigmoid(self.mlp(decoded.embeddings) + offset)


BOX_HEADS = {True: OffsetBoxHead, False: BoxHead}  # by the value of `box_offset`
