"""Classification heads."""

import math
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from conditional_detr.model.memory import Memory
from conditional_detr.model.precision import FLOAT32
from conditional_detr.model.queries import Decoded

PRIOR_PROBABILITY = 0.01
PRIOR_LOGIT = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)


class ClassHead(nn.Linear):
    """(Decoded, Memory) → class logits [L, B, Q, K]."""

    predicts: ClassVar[str] = "logits"
    export_precision = FLOAT32

    def forward(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "L B Q K"]:  # type: ignore[override]
        return super().forward(decoded.embeddings)


class FocalClassHead(ClassHead):
    """One logit per class, for the sigmoid focal loss. The bias is initialised so that every class has probability 0.01."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes)
        nn.init.constant_(self.bias, PRIOR_LOGIT)


class SoftmaxClassHead(ClassHead):
    """One logit per class, followed by one for "no object" (DETR)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes + 1)


CLASS_HEADS = {"focal": FocalClassHead, "softmax": SoftmaxClassHead}
