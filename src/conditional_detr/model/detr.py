"""The detector, put together from its parts, and the record that it returns."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.export import register_dataclass
from torch.nn import functional as F

from conditional_detr.model.backbone.timm_backbone import Backbone
from conditional_detr.model.decoder import Decoder
from conditional_detr.model.encoder import Encoder, Memory
from conditional_detr.model.positional import extent_in_cells, grid_points, sine_embedding
from conditional_detr.model.precision import float32_region
from conditional_detr.model.spatial_query import ReferencePoints


@dataclass(frozen=True)
class DetectionOutput:
    """What a detector says of a batch.

    Attributes
    ----------
    pred_logits : [B, Q, K], the last decoder layer's class logits
    pred_boxes : [B, Q, 4], its boxes (cx, cy, w, h) in [0, 1] of the unpadded image
    aux_logits, aux_boxes : [L−1, B, Q, K or 4], the same of the earlier layers, or None where they were not asked for
    memory : the encoder's output and where its cells lie, likewise
    """

    pred_logits: Float[Tensor, "B Q K"]
    pred_boxes: Float[Tensor, "B Q 4"]
    aux_logits: Float[Tensor, "A B Q K"] | None = None
    aux_boxes: Float[Tensor, "A B Q 4"] | None = None
    memory: Memory | None = None


register_dataclass(DetectionOutput, serialized_type_name="conditional_detr.DetectionOutput")  # exporters return it whole


class DETR(nn.Module):
    """Backbone, encoder, decoder and heads; which decoder and which heads decides whose DETR it is.

    Parameters
    ----------
    backbone, encoder, decoder : the network's three parts
    reference_points : object queries [Q, D] and memory → unnormalised points [Q, 2], or [B, Q, 2] where they are the image's
    class_head : [..., D] → [..., K] logits
    box_head : ([..., Q, D], reference points in [0, 1]) → [..., Q, 4]
    num_queries, dim : Q and D
    pixel_aligned_positions : cells lie where they are in the image, also where it ends within one
    """

    def __init__(
        self,
        backbone: Backbone,
        encoder: Encoder,
        decoder: Decoder,
        reference_points: ReferencePoints,
        class_head: nn.Module,
        box_head: nn.Module,
        num_queries: int,
        dim: int,
        pixel_aligned_positions: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_aligned_positions = pixel_aligned_positions
        self.input_projection = nn.Conv2d(backbone.channels, dim, kernel_size=1)
        self.encoder = encoder
        self.object_query = nn.Parameter(torch.randn(num_queries, dim))
        self.reference_points = reference_points
        self.decoder = decoder
        self.class_head = class_head
        self.box_head = box_head

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        padding_mask: Bool[Tensor, "B H W"] | None = None,
        *,
        aux: bool | None = None,
        further_queries: Float[Tensor, "_ D"] | None = None,
    ) -> DetectionOutput:
        """Detect.

        Parameters
        ----------
        images : float32 [B, 3, H, W], normalised as the backbone was trained
        padding_mask : bool [B, H, W], True where an image of the batch was padded at its bottom or right
        aux : whether earlier layers' predictions are returned too; None = while training
        further_queries : object queries of further groups, as many each as the model has; they and the model's own do not
            see each other (training only)
        """
        features = self.input_projection(self.backbone(images))
        cell_is_padding = shrink_mask(padding_mask, features)
        extent = extent_in_cells(images, padding_mask, self.backbone.stride) if self.pixel_aligned_positions else None
        points = grid_points(cell_is_padding, features.shape[-2], features.shape[-1], features.device, extent)
        position = sine_embedding(points, features.shape[1]).flatten(1, 2)
        is_padding = None if cell_is_padding is None else cell_is_padding.flatten(1)

        tokens = self.encoder(features.flatten(2).transpose(1, 2), position, is_padding)
        object_query = self.object_query if further_queries is None else torch.cat([self.object_query, further_queries])
        groups = len(object_query) // len(self.object_query)
        with float32_region(images):  # places and boxes lose whole pixels in 16 bits
            memory = Memory(tokens, points.flatten(1, 2), is_padding, self.reference_points.heat(tokens.float()))
            reference_points = self.reference_points(object_query, memory).sigmoid()
            object_query = self.reference_points.tell(object_query, reference_points)
        decoded = self.decoder(object_query, reference_points, tokens, position, is_padding, groups)

        with_aux = self.training if aux is None else aux
        decoded = decoded if with_aux else decoded[-1:]
        with float32_region(images):
            logits = self.class_head(decoded.float())
            boxes = self.box_head(decoded.float(), reference_points)
        if with_aux:
            return DetectionOutput(logits[-1], boxes[-1], logits[:-1], boxes[:-1], memory)
        return DetectionOutput(logits[-1], boxes[-1])


def shrink_mask(padding_mask: Bool[Tensor, "B H W"] | None, features: Float[Tensor, "B D h w"]) -> Bool[Tensor, "B h w"] | None:
    """The mask at the feature map's size: each cell takes the pixel at its top left corner (nearest)."""
    if padding_mask is None:
        return None
    return F.interpolate(padding_mask[:, None].float(), size=features.shape[-2:])[:, 0].bool()
