"""The detector, assembled from its parts, and its output."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.export import register_dataclass

from conditional_detr.model.backbone.timm_backbone import Backbone
from conditional_detr.model.decoder import Decoder
from conditional_detr.model.encoder import Encoder
from conditional_detr.model.heads.box import BoxHead
from conditional_detr.model.memory import Memory, build_memory
from conditional_detr.model.positional import Grid
from conditional_detr.model.precision import float32_region
from conditional_detr.model.queries import Decoded, in_groups
from conditional_detr.model.query_init import Initial, QueryInit


@dataclass(frozen=True)
class DetectionOutput:
    """Predictions of a detector for a batch. An additional head adds two fields, `pred_…` and `aux_…`.

    Attributes
    ----------
    pred_logits : [B, Q, K], class logits of the last decoder layer
    pred_boxes : [B, Q, 4], boxes (cx, cy, w, h) of the last decoder layer, in [0, 1] relative to the unpadded image. Boxes that
        start from reference boxes may reach beyond it
    aux_logits, aux_boxes : [L−1, B, Q, K or 4], the same for the earlier layers; None if they were not requested
    memory : the encoder's output with the positions of its cells; None if the earlier layers were not requested
    objectness : [B, N], logits for how near each memory cell is to the centre of an object; None if the earlier layers were
        not requested or the reference points are not chosen by this score
    cell_boxes : [B, N, 4], box predicted from each memory cell; None as `objectness`, or if none are predicted
    pred_features, aux_features : [B, Q, C] and [L−1, B, Q, C], predicted features of patches in pre-training, otherwise None
    patch_features : [B, x, C], the backbone's features of the patches in pre-training, not normalised; otherwise None
    """

    pred_logits: Float[Tensor, "B Q K"]
    pred_boxes: Float[Tensor, "B Q 4"]
    aux_logits: Float[Tensor, "A B Q K"] | None = None
    aux_boxes: Float[Tensor, "A B Q 4"] | None = None
    memory: Memory | None = None
    objectness: Float[Tensor, "B N"] | None = None
    cell_boxes: Float[Tensor, "B N 4"] | None = None
    pred_features: Float[Tensor, "B Q C"] | None = None
    aux_features: Float[Tensor, "A B Q C"] | None = None
    patch_features: Float[Tensor, "B x C"] | None = None

    def last_layer(self) -> dict[str, Tensor]:
        """Predictions of the last layer, [B, Q, …], by name: "logits", "boxes", …"""
        fields = {key.removeprefix("pred_"): value for key, value in vars(self).items() if key.startswith("pred_")}
        return {name: value for name, value in fields.items() if value is not None}

    def all_layers(self) -> dict[str, Tensor]:
        """Predictions of all layers, [L, B, Q, …], by name. The last layer comes last."""
        last = {name: value[None] for name, value in self.last_layer().items()}
        earlier = {name: getattr(self, f"aux_{name}") for name in last}
        return {name: x if earlier[name] is None else torch.cat([earlier[name], x]) for name, x in last.items()}


register_dataclass(DetectionOutput, serialized_type_name="conditional_detr.DetectionOutput")  # lets exported graphs return it


class DETR(nn.Module):
    """A detector made of a backbone, neck, encoder, decoder and heads. The parts decide which DETR variant it is.

    Parameters
    ----------
    backbone : images → feature maps
    neck : feature maps → the levels of the memory
    grid : positions of the cells of these levels
    encoder : Memory → Memory
    reference_points : (object queries [Q, D], Memory) → the queries before the first layer
    decoder : (Queries, Memory) → Decoded
    heads : head modules by name. Each is (Decoded, Memory) → [L, B, Q, …], and its attribute `predicts` names its output.
        One of them must be "box_head", which may also refine the reference points from layer to layer
    """

    box_head: BoxHead

    def __init__(  # noqa: PLR0913 · one parameter per part
        self,
        backbone: Backbone,
        neck: nn.Module,
        grid: Grid,
        encoder: Encoder,
        reference_points: QueryInit,
        decoder: Decoder,
        heads: Mapping[str, nn.Module],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.input_projection = neck
        self.grid = grid
        self.encoder = encoder
        self.object_query = nn.Parameter(torch.randn(reference_points.num_queries, reference_points.dim))
        self.reference_points = reference_points
        self.decoder = decoder
        self.head_names = list(heads)
        for name, head in heads.items():
            self.add_module(name, head)

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        padding_mask: Bool[Tensor, "B H W"] | None = None,
        *,
        aux: bool | None = None,
        extra_queries: Float[Tensor, "G Q D"] | None = None,
    ) -> DetectionOutput:
        """Predict classes and boxes for a batch of images.

        Parameters
        ----------
        images : float32 [B, 3, H, W], normalised as in the training of the backbone
        padding_mask : bool [B, H, W], True for pixels that are padding, at the bottom or right of an image
        aux : whether to return the predictions of the earlier layers too; None = only in training mode
        extra_queries : object queries of additional groups, each as large as the model's own group; groups do not attend to
            each other (for training only)
        """
        memory = self.encode(images, padding_mask)
        with float32_region(images):  # in 16 bits, points and boxes can be off by whole pixels
            initial = self.reference_points(self.object_query, memory)
            queries = initial.queries
            if extra_queries is not None:
                extra = [self.reference_points.extra_group(group, memory, initial) for group in extra_queries]
                queries = in_groups([queries, *extra])
        return self.predicted(self.decoder(queries, memory, self.box_head.refine), memory, aux, initial)

    def encode(self, images: Float[Tensor, "B 3 H W"], padding_mask: Bool[Tensor, "B H W"] | None) -> Memory:
        """Compute the memory of a batch of images."""
        maps = self.input_projection(self.backbone(images))
        encoded: Memory = self.encoder(build_memory(maps, images, padding_mask, self.grid))
        return encoded

    def predicted(
        self, decoded: Decoded, memory: Memory, aux: bool | None = None, initial: Initial | None = None
    ) -> DetectionOutput:
        """Predict classes and boxes from the decoder's output; `aux` is as in `forward`."""
        with_aux = self.training if aux is None else aux
        decoded = decoded if with_aux else decoded.last
        with float32_region(memory.tokens):
            decoded = decoded._replace(embeddings=decoded.embeddings.float())
            heads = [getattr(self, name) for name in self.head_names]
            predicted = {head.predicts: head(decoded, memory) for head in heads}
        last = {f"pred_{name}": layers[-1] for name, layers in predicted.items()}
        if not with_aux:
            return DetectionOutput(**last)
        earlier = {f"aux_{name}": layers[:-1] for name, layers in predicted.items()}
        objectness, cell_boxes = (None, None) if initial is None else (initial.objectness, initial.cell_boxes)
        return DetectionOutput(**last, **earlier, memory=memory, objectness=objectness, cell_boxes=cell_boxes)
