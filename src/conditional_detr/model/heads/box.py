"""What is predicted from a decoder embedding: class logits and a box."""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.positional import inverse_sigmoid

PRIOR_PROBABILITY = 0.01


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> None:
        super().__init__()
        widths = [dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    @property
    def last(self) -> nn.Linear:
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape E"]:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class FocalClassHead(nn.Linear):
    """One logit a class for sigmoid focal loss; at first every class has probability 0.01."""

    PRIOR_LOGIT = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes)
        nn.init.constant_(self.bias, self.PRIOR_LOGIT)


class SoftmaxClassHead(nn.Linear):
    """One logit a class and, last, one for no object (DETR)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes + 1)


class BoxHead(nn.Module):
    """b = sigmoid(MLP(f)): the box straight from the decoder embedding (DETR)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = MLP(dim, dim, 4, num_layers=3)

    def forward(
        self, decoder_embedding: Float[Tensor, "*shape Q D"], reference_points: Float[Tensor, "*_ Q 2"]
    ) -> Float[Tensor, "*shape Q 4"]:
        return torch.sigmoid(self.mlp(decoder_embedding))


class OffsetBoxHead(BoxHead):
    """b = sigmoid(MLP(f) + [logit(r), 0, 0]): the centre is predicted as an offset to the reference point (eq. 1).

    The last layer starts at zero, so at first every box is (r_x, r_y, 0.5, 0.5).
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        nn.init.zeros_(self.mlp.last.weight)
        nn.init.zeros_(self.mlp.last.bias)

    def forward(
        self, decoder_embedding: Float[Tensor, "*shape Q D"], reference_points: Float[Tensor, "*_ Q 2"]
    ) -> Float[Tensor, "*shape Q 4"]:
        offset = F.pad(inverse_sigmoid(reference_points), (0, 2))
        return torch.sigmoid(self.mlp(decoder_embedding) + offset)


CLASS_HEADS = {"focal": FocalClassHead, "softmax": SoftmaxClassHead}
BOX_HEADS = {True: OffsetBoxHead, False: BoxHead}
