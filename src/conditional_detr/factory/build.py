"""Build a model from its configuration. Only this module turns the names of a configuration into modules."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from conditional_detr.config.parts import check_parts, unused_fields
from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.device.threads import one_thread_after_fork
from conditional_detr.errors import ConfigError
from conditional_detr.model.attention import CROSS_ATTENTION, ENCODER_ATTENTION
from conditional_detr.model.backbone.neck import neck_kind
from conditional_detr.model.backbone.timm_backbone import Backbone, check_network
from conditional_detr.model.decoder import DECODER_LAYERS, DECODER_NORMS, Decoder, DecoderLayer
from conditional_detr.model.detr import DETR
from conditional_detr.model.encoder import ENCODER_LAYERS, CoarsestEncoder, Encoder, EncoderLayer, LevelEmbedding
from conditional_detr.model.fusion import UpwardFusion
from conditional_detr.model.heads.box import BOX_CODINGS, BOX_HEADS
from conditional_detr.model.heads.classification import CLASS_HEADS
from conditional_detr.model.initialisation import init_local_spatial_attention, initialise_transformer
from conditional_detr.model.patches import FeatureHead, PatchInContent, PatchInPosition, with_patches
from conditional_detr.model.positional import EXTENTS, Grid
from conditional_detr.model.query_init import (
    FIRST_CONTENT,
    REFERENCE_POINTS,
    REFERENCE_POINTS_OF_SEVERAL_LEVELS,
    EncoderReferencePoints,
    QueryInit,
)
from conditional_detr.model.spatial_query import LAMBDA_Q, SPATIAL_QUERIES, SpatialQuery

SAME_PADDING_MULTIPLE = 32


class DetectionModel(DETR):
    """A detector with its configuration, preprocessing and class names.

    Attributes
    ----------
    config : configuration of the network
    preprocessor : configuration of the preprocessing
    class_names : one name per class index
    category_ids : one category id of the data set per class index
    thresholds : one score threshold per class index, calibrated on a validation split; prediction uses them if no threshold is
        given; None = not calibrated
    nms_iou : in prediction, boxes that overlap a box of the same class and a higher score by more than this IoU are
        suppressed; None = none. Training sets it if that raises the F1 score on the validation split. Evaluation never uses it
    """

    # Building the backbone computes gradients, so these must be enabled even if the caller has disabled them.
    @torch.inference_mode(False)
    @torch.enable_grad()
    def __init__(
        self,
        config: ModelConfig,
        preprocessor: PreprocessorConfig,
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
        thresholds: Sequence[float] | None = None,
        nms_iou: float | None = None,
    ) -> None:
        check_parts(config)
        one_thread_after_fork()
        super().__init__(**parts_of(config))
        if config.decoder_layers == 1 and type(self.decoder.spatial_query).first is SpatialQuery.first:
            self.decoder.spatial_query.requires_grad_(False)  # only later layers use its parameters
        initialise_transformer(self.encoder, self.decoder, self.reference_points)
        if config.spatial_init == "local":
            init_local_spatial_attention(self.decoder)
        self.config = config
        self.preprocessor = preprocessor
        self.class_names = [str(i) for i in range(config.num_classes)] if class_names is None else class_names
        self.category_ids = range(config.num_classes) if category_ids is None else category_ids
        self.thresholds = thresholds
        self.nms_iou = nms_iou

    takes_arrays = False  # but tensors

    @property
    def device(self) -> torch.device:
        return self.object_query.device

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last

    @property
    def summary(self) -> str:
        return f"{sum(p.numel() for p in self.parameters()) / 1e6:.1f} M parameters"

    @property
    def class_names(self) -> list[str]:
        return self._class_names

    @class_names.setter
    def class_names(self, names: Sequence[str]) -> None:
        self._class_names = [str(name) for name in names]
        _check_length("class_names", self._class_names, self.config.num_classes)

    @property
    def category_ids(self) -> list[int]:
        return self._category_ids

    @category_ids.setter
    def category_ids(self, ids: Sequence[int]) -> None:
        self._category_ids = [int(i) for i in ids]
        if any(given != whole for given, whole in zip(ids, self._category_ids, strict=True)):
            raise ConfigError("category_ids must be whole numbers")
        _check_length("category_ids", self._category_ids, self.config.num_classes)
        if len(set(self._category_ids)) != len(self._category_ids):
            raise ConfigError("category_ids must differ from each other")

    @property
    def thresholds(self) -> list[float] | None:
        return self._thresholds

    @thresholds.setter
    def thresholds(self, scores: Sequence[float] | None) -> None:
        self._thresholds = None if scores is None else [float(score) for score in scores]
        if self._thresholds is not None:
            _check_length("thresholds", self._thresholds, self.config.num_classes)
            if not all(0 <= score <= 1 for score in self._thresholds):
                raise ConfigError("thresholds must be scores in [0, 1]")

    @property
    def nms_iou(self) -> float | None:
        return self._nms_iou

    @nms_iou.setter
    def nms_iou(self, iou: float | None) -> None:
        self._nms_iou = None if iou is None else float(iou)
        if self._nms_iou is not None and not 0 <= self._nms_iou <= 1:
            raise ConfigError(f"nms_iou must be in [0, 1] or None, not {iou}")


def parts_of(config: ModelConfig) -> dict[str, Any]:
    """The modules of a `DETR`, by the names of the parameters of its constructor."""
    dim, num_heads = config.hidden_dim, config.num_heads
    decoder_layers = list(decoder_layers_of(config))
    neck = neck_kind(config.neck, config.strides)
    backbone = Backbone(config.backbone, neck.backbone_strides(config.strides, config.dilation), config.dilation)
    encoder = encoder_of(config)
    spatial_query = SPATIAL_QUERIES["none" if "spatial_query" in unused_fields(config) else config.spatial_query]
    lambda_q = LAMBDA_Q[config.lambda_q](dim, num_heads)
    decoder = Decoder(decoder_layers, spatial_query(lambda_q), DECODER_NORMS[config.decoder_norm](dim))
    content = FIRST_CONTENT[config.learned_content](dim, config.num_queries)
    reference_points = query_init_of(config, content, backbone.channels[-1])
    heads: dict[str, nn.Module] = {
        "class_head": CLASS_HEADS[config.classification](dim, config.num_classes),
        "box_head": BOX_HEADS[config.box_refinement, config.box_offset](
            dim,
            config.decoder_layers,
            0.0 if reference_points.gives_boxes else config.size_logit,
            BOX_CODINGS[reference_points.gives_boxes],
        ),
    }
    if config.patches:
        heads["feature_head"] = FeatureHead(dim, backbone.channels[-1])
    projection = neck(backbone.channels, dim, len(config.strides))
    projection.check(backbone, config.strides)
    grid = Grid(config.strides, EXTENTS[config.pixel_aligned_positions], 0.5 if config.half_cell_positions else 0.0)
    return {
        "backbone": backbone, "neck": projection, "grid": grid, "encoder": encoder, "reference_points": reference_points,
        "decoder": decoder, "heads": heads,
    }  # fmt: skip


def query_init_of(config: ModelConfig, content: nn.Module, channels: int) -> QueryInit:
    """Build the module of the initial queries. In pre-training they carry patches with `channels` features."""
    kinds = REFERENCE_POINTS if len(config.strides) == 1 else REFERENCE_POINTS_OF_SEVERAL_LEVELS
    kind = kinds[config.reference_points]
    if not config.patches:
        return kind(config.hidden_dim, config.num_queries, content)
    if issubclass(kind, EncoderReferencePoints):
        raise ConfigError(
            f"patches and reference_points = {config.reference_points!r} cannot be combined: the score that chooses the points "
            "learns from objects"
        )
    carrying = PatchInPosition if config.cross_attention == "additive" else PatchInContent
    return with_patches(kind, carrying)(config.hidden_dim, config.num_queries, content, channels, config.patches)


def encoder_of(config: ModelConfig) -> Encoder:
    """Build the encoder. With dense attention, only the coarsest of several levels has encoder layers."""
    layers, dim, levels = encoder_layers_of(config), config.hidden_dim, len(config.strides)
    is_dense = config.encoder_attention == "dense"
    scale = 1.0 if config.cross_attention == "deformable" else 0.0  # others compare positions, which noise would disturb
    embedding = None if is_dense and levels == 1 else LevelEmbedding(levels, dim, scale)
    norm = nn.LayerNorm(dim) if config.norm == "pre" else None
    if is_dense and levels > 1:
        return CoarsestEncoder(layers, embedding, norm, UpwardFusion(levels, dim))
    return Encoder(layers, embedding, norm)


def encoder_layers_of(config: ModelConfig) -> Iterator[EncoderLayer]:
    """Build the encoder layers."""
    attention, layer = ENCODER_ATTENTION[config.encoder_attention], ENCODER_LAYERS[config.norm]
    sampling = sampling_of(config, config.encoder_attention)
    for _ in range(config.encoder_layers):
        self_attention = attention(config.hidden_dim, config.num_heads, config.dropout, **sampling)
        yield layer(self_attention, config.hidden_dim, config.feedforward_dim, config.dropout)


def decoder_layers_of(config: ModelConfig) -> Iterator[DecoderLayer]:
    """Build the decoder layers. The cross-attention of the first layer may differ from that of the later layers."""
    attention, layer = CROSS_ATTENTION[config.cross_attention], DECODER_LAYERS[config.norm]
    sizes, sampling = (config.hidden_dim, config.num_heads, config.dropout), sampling_of(config, config.cross_attention)
    for number in range(config.decoder_layers):
        self_attention = attention.self_attention(*sizes)
        cross_attention = (attention.cross_attention if number else attention.first_cross_attention)(*sizes, **sampling)
        yield layer(self_attention, cross_attention, config.hidden_dim, config.feedforward_dim, config.dropout)


def sampling_of(config: ModelConfig, attention: str) -> dict[str, int]:
    """The additional sizes of an attention that samples the memory."""
    return {"levels": len(config.strides), "points": config.sampling_points} if attention == "deformable" else {}


def _check_length(what: str, values: list[Any], num_classes: int) -> None:
    if len(values) != num_classes:
        raise ConfigError(f"{what} must have an entry for each of the {num_classes} classes, not {len(values)}")


def preprocessing_for(config: ModelConfig, imgsz: int) -> PreprocessorConfig:
    """Preprocessing with the mean and standard deviation that the backbone was trained with.

    Some backbones use "SAME" padding, where the padding at the top and left depends on the input size. Their images are padded
    to multiples of the stride. Otherwise the position of the feature map cells in an image would depend on its batch.
    """
    import timm

    check_network(config.backbone)
    backbone = timm.get_pretrained_cfg(config.backbone, allow_unregistered=False)
    assert backbone is not None
    same_padding = config.backbone.startswith("tf_")
    return PreprocessorConfig(
        imgsz=imgsz,
        mean=tuple(backbone.mean),
        std=tuple(backbone.std),
        size_multiple=SAME_PADDING_MULTIPLE if same_padding else 1,
    )
