"""A model from its configuration: the only place where names become objects."""

from collections.abc import Sequence
from typing import Any

import timm
import torch

from conditional_detr.config.parts import check_parts
from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.errors import ConfigError
from conditional_detr.model.backbone.timm_backbone import Backbone, check_network
from conditional_detr.model.decoder import CROSS_ATTENTIONS, Decoder, DecoderLayer
from conditional_detr.model.detr import DETR
from conditional_detr.model.encoder import Encoder
from conditional_detr.model.heads.box import BOX_HEADS, CLASS_HEADS
from conditional_detr.model.initialisation import init_local_spatial_attention, initialise_transformer
from conditional_detr.model.spatial_query import LAMBDA_Q, REFERENCE_POINTS, SPATIAL_QUERIES, SpatialQuery

SAME_PADDING_MULTIPLE = 32


class DetectionModel(DETR):
    """A detector that knows what it is.

    Attributes
    ----------
    config : what it is made of
    preprocessor : how images become its input
    class_names : a name for each class index
    category_ids : for each class index the id that its data set uses for it
    thresholds : for each class index the lowest score that prediction keeps where nobody gives one, learned on a validation
        split; None = not learned
    """

    @torch.inference_mode(False)  # building looks at gradients, whatever the caller has switched off
    @torch.enable_grad()
    def __init__(
        self,
        config: ModelConfig,
        preprocessor: PreprocessorConfig,
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
        thresholds: Sequence[float] | None = None,
    ) -> None:
        check_parts(config)
        dim, heads, width, dropout = config.hidden_dim, config.num_heads, config.feedforward_dim, config.dropout
        among_queries, first, later = CROSS_ATTENTIONS[config.cross_attention]
        layers = [
            DecoderLayer(among_queries(dim, heads, dropout), to_memory(dim, heads, dropout), dim, width, dropout)
            for to_memory in (first, *[later] * (config.decoder_layers - 1))
        ]
        # DETR's attention adds the object query itself; without parameters of its own a place is ignored there.
        kind = SPATIAL_QUERIES["point" if config.cross_attention == "additive" else config.spatial_query]
        super().__init__(
            backbone=Backbone(config.backbone, config.backbone_stride, config.dilation, config.finer),
            encoder=Encoder(config.encoder_layers, dim, heads, width, dropout),
            decoder=Decoder(layers, kind(LAMBDA_Q[config.lambda_q](dim, heads)), dim),
            reference_points=REFERENCE_POINTS[config.reference_points](dim, config.num_queries),
            class_head=CLASS_HEADS[config.classification](dim, config.num_classes),
            box_head=BOX_HEADS[config.box_offset](dim),
            num_queries=config.num_queries,
            dim=dim,
            pixel_aligned_positions=config.pixel_aligned_positions,
        )
        if config.decoder_layers == 1 and kind.first is SpatialQuery.first:
            self.decoder.spatial_query.requires_grad_(False)  # for later layers, of which there is none
        initialise_transformer(self.encoder, self.decoder, self.reference_points)
        if config.spatial_init == "local":
            init_local_spatial_attention(self.decoder)
        self.config = config
        self.preprocessor = preprocessor
        self.class_names = [str(i) for i in range(config.num_classes)] if class_names is None else class_names
        self.category_ids = range(config.num_classes) if category_ids is None else category_ids
        self.thresholds = thresholds

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


def _check_length(what: str, values: list[Any], num_classes: int) -> None:
    if len(values) != num_classes:
        raise ConfigError(f"{what} must have an entry for each of the {num_classes} classes, not {len(values)}")


def preprocessing_for(config: ModelConfig, imgsz: int) -> PreprocessorConfig:
    """Preprocessing with the constants that the backbone was trained with.

    A backbone that pads at the top and left according to its input's size ("SAME") sees an image at the same places in any
    batch only where sizes are multiples of its stride.
    """
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
