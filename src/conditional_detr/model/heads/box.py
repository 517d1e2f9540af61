"""Box heads."""

from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.model.decoder import keep_reference
from conditional_detr.model.memory import Memory
from conditional_detr.model.mlp import MLP
from conditional_detr.model.positional import inverse_sigmoid
from conditional_detr.model.precision import FLOAT32, float32_region
from conditional_detr.model.queries import Decoded, Queries

# (predicted offsets [… B, Q, 4], reference points or boxes [_, Q, 2 or 4]) → boxes (cx, cy, w, h) [… B, Q, 4]
BoxCoding = Callable[[Tensor, Tensor], Tensor]

LARGEST_LOG_SCALE = 3.0  # a box is at most e³ times as wide or high as its reference
SMALLEST_REFERENCE = 1e-3  # lower limit of the width and height that offsets are multiplied by


def relative_to_image(offset: Float[Tensor, "*L B Q 4"], reference: Float[Tensor, "_ Q R"]) -> Float[Tensor, "*L B Q 4"]:
    """b = sigmoid(offset + logit(r)), where the logits of the size of a point are 0 (section 3.1; Deformable DETR)."""
    return torch.sigmoid(offset + F.pad(inverse_sigmoid(reference), (0, 4 - reference.shape[-1])))


def relative_to_reference(offset: Float[Tensor, "*L B Q 4"], reference: Float[Tensor, "_ Q 4"]) -> Float[Tensor, "*L B Q 4"]:
    """Centre = r_xy + offset_xy · r_wh, size = r_wh · exp(offset_wh). Boxes may reach beyond the image.

    The same offset means the same shift everywhere in the image. In logits it depends on the distance to the border, which an
    embedding hardly knows, since attention adds positions to queries and keys only.

    Source: the box coding of R-CNN (Girshick et al., CVPR 2014).
    """
    centre, size = reference[..., :2], reference[..., 2:].clamp(min=SMALLEST_REFERENCE)
    scale = offset[..., 2:].clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE).exp()
    return torch.cat([centre + offset[..., :2] * size, size * scale], dim=-1)


class BoxHead(nn.Module):
    """(Decoded, Memory) → boxes [L, B, Q, 4]: b = sigmoid(MLP(f)), directly from the decoder embedding (DETR).

    Parameters
    ----------
    dim, layers : D, and number of decoder layers L
    size_logit : initial logit of width and height, for heads that start at a reference point
    coding : turns the predicted offsets and the references into boxes, for heads that have references
    """

    predicts: ClassVar[str] = "boxes"
    export_precision = FLOAT32

    def __init__(self, dim: int, layers: int, size_logit: float = 0.0, coding: BoxCoding = relative_to_image) -> None:
        super().__init__()
        self.mlp, self.coding = MLP(dim, dim, 4, num_layers=3), coding

    def forward(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "L B Q 4"]:
        return torch.sigmoid(self.mlp(decoded.embeddings))

    refine = staticmethod(keep_reference)  # (layer number, its embeddings, its queries) → the queries of the next layer


class OffsetBoxHead(BoxHead):
    """b = sigmoid(MLP(f) + [logit(r), 0, 0]): the centre is predicted as an offset from the reference point (section 3.1).

    The last layer of the MLP is initialised with zeros, so every box starts as (r_x, r_y, s, s) with s = sigmoid(size_logit):
    size_logit is 0 in the paper, -2 in Deformable DETR. If references are boxes, every box starts as its reference.
    """

    def __init__(self, dim: int, layers: int, size_logit: float = 0.0, coding: BoxCoding = relative_to_image) -> None:
        super().__init__(dim, layers, size_logit, coding)
        start_at_reference(self.mlp, size_logit)

    def forward(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "L B Q 4"]:
        return self.coding(self.mlp(decoded.embeddings), decoded.references[-1])  # `refine` keeps the same in all layers


class RefinedBoxHead(nn.Module):
    """b_l = coding(MLP_l(f_l), b_{l-1}): each layer refines the boxes of the one before. It has an MLP of its own.

    b_0 is the reference point, or the reference box if there is one. Boxes are detached before the next layer, so the loss of a
    layer trains this layer alone.

    Source: Zhu et al., Deformable DETR, ICLR 2021, appendix A.4, and released code, with `relative_to_image`.
    """

    predicts: ClassVar[str] = "boxes"
    export_precision = FLOAT32

    def __init__(self, dim: int, layers: int, size_logit: float = 0.0, coding: BoxCoding = relative_to_image) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LayerBox(dim, 0.0 if number else size_logit, coding) for number in range(layers))

    def forward(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "L B Q 4"]:
        inputs = zip(self.layers[-len(decoded.references) :], decoded.embeddings, decoded.references, strict=True)
        return torch.stack([layer(embedding, reference) for layer, embedding, reference in inputs])

    def refine(self, number: int, embedding: Float[Tensor, "B Q D"], queries: Queries) -> Queries:
        """The queries of the next layer, whose references are the boxes of this layer."""
        if number == len(self.layers) - 1:
            return queries
        with float32_region(embedding):
            return queries.with_reference(self.layers[number](embedding.float(), queries.reference).detach())

    def keep_references(self) -> None:
        """All layers predict their references again, as before training."""
        for layer in self.layers:
            assert isinstance(layer, LayerBox)
            start_at_reference(layer.mlp, 0.0)

    def start_from(self, shared: BoxHead) -> None:
        """Start from a trained head that all layers share: the first layer predicts its boxes, the later ones keep them."""
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, LayerBox)
            trained = shared.mlp.layers if number == 0 else shared.mlp.layers[:-1]
            layer.mlp.layers[: len(trained)].load_state_dict(trained.state_dict())


class LayerBox(nn.Module):
    """(embeddings [B, Q, D], reference points or boxes) → boxes [B, Q, 4] of one layer."""

    def __init__(self, dim: int, size_logit: float, coding: BoxCoding) -> None:
        super().__init__()
        self.mlp, self.coding = MLP(dim, dim, 4, num_layers=3), coding
        start_at_reference(self.mlp, size_logit)

    def forward(self, embedding: Float[Tensor, "B Q D"], reference: Float[Tensor, "_ Q R"]) -> Float[Tensor, "B Q 4"]:
        return self.coding(self.mlp(embedding), reference)


def start_at_reference(mlp: MLP, size_logit: float) -> None:
    """Initialise the last layer so that the centre starts at the reference, and width and height at a logit."""
    nn.init.zeros_(mlp.last.weight)
    nn.init.zeros_(mlp.last.bias)
    nn.init.constant_(mlp.last.bias[2:], size_logit)


# by the values of `box_refinement` and `box_offset`
BOX_HEADS: dict[tuple[bool, bool], type[nn.Module]] = {
    (False, True): OffsetBoxHead, (False, False): BoxHead, (True, True): RefinedBoxHead,
}  # fmt: skip
# by whether the references before the first layer are boxes
BOX_CODINGS: dict[bool, BoxCoding] = {False: relative_to_image, True: relative_to_reference}
