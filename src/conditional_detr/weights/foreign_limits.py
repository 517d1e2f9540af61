"""Detect the ResNet in a foreign checkpoint, and check whether a foreign format can hold a model of this library."""

import re
from typing import Any

from torch import Tensor

from conditional_detr.config.presets import PRESETS
from conditional_detr.config.schema import SIZES, ModelConfig
from conditional_detr.errors import CheckpointError

# (blocks per stage, whether they are bottleneck blocks) → name.
RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
BASIC_BLOCKS = ("resnet18", "resnet34")  # torchvision, which the reference releases use, cannot dilate these
# The choices of each foreign detector: values of the fields `DECIDED`, by the value of `cross_attention`.
DECIDED = (
    "neck", "half_cell_positions", "decoder_norm", "encoder_attention", "learned_content", "spatial_query", "lambda_q",
    "reference_points", "box_offset", "classification", "size_logit",
)  # fmt: skip
FOREIGN_CHOICES: dict[str, dict[str, Any]] = {
    model.cross_attention: {field: getattr(model, field) for field in DECIDED}
    for model in (PRESETS[name].model for name in ("conditional-detr-r50", "detr-r50", "deformable-detr-ss-r50"))
}
# Fields that may have any value that the checks below allow. All fields that are neither here nor in `DECIDED` must have
# their default, which is the value of the paper.
FREE = SIZES - {"patches"} | {"backbone", "dilation", "strides", "cross_attention", "spatial_init"}
INITIAL = {"size_logit"}  # matters only when a model is new
# (format, cross-attention) of the formats that also hold models with norm = "pre" and for pre-training
PRE_NORM = {("official", "additive")}


def backbone_of(state: dict[str, Tensor], prefix: str, file: object) -> str:
    """Return the name of the ResNet whose tensors are in `state` under a prefix, with the tensor names of torchvision.

    Raises
    ------
    CheckpointError : the tensors do not form a supported ResNet
    """
    blocks = {m.groups() for key in state if (m := re.match(re.escape(prefix) + r"layer(\d)\.(\d+)\.", key))}
    depths = tuple(sum(stage == str(i) for stage, _ in blocks) for i in range(1, 5))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    if (depths, bottleneck) not in RESNETS:
        found = f"stages of {', '.join(map(str, depths))} blocks" if blocks else "no tensors of a ResNet"
        raise CheckpointError(f"{file} must hold a ResNet-18, -34, -50, -101 or -152 under {prefix}*; found {found}")
    return RESNETS[depths, bottleneck]


def named(resnet: str, stated: object) -> str:
    """Full timm name of a ResNet: `stated` if it names the same network, else the version with weights of torchvision."""
    return stated if isinstance(stated, str) and stated.split(".")[0] == resnet and "." in stated else f"{resnet}.tv_in1k"


def check_can_be_held(config: ModelConfig, format: str) -> None:
    """Check that a foreign format can hold a model: one of the published systems as in its paper, with a ResNet.

    Raises
    ------
    CheckpointError : the format cannot hold the model; the message names the first field that does not fit
    """
    if config.cross_attention not in FOREIGN_CHOICES:
        raise CheckpointError(
            f"the format {format!r} cannot hold cross_attention = {config.cross_attention!r}. Save it as 'native'"
        )
    decided = FOREIGN_CHOICES[config.cross_attention]
    free = FREE | ({"norm", "patches"} if (format, config.cross_attention) in PRE_NORM else set())
    fixed = {field: info.default for field, info in ModelConfig.model_fields.items() if field not in free | decided.keys()}
    for field, value in {"strides": (16,) if config.dilation else (32,), **fixed, **decided}.items():
        if field not in INITIAL and getattr(config, field) != value:
            beside = f" with cross_attention = {config.cross_attention!r}" if field in decided else ""
            raise CheckpointError(
                f"the format {format!r} cannot hold {field} = {getattr(config, field)!r}: only {value!r} is "
                f"supported{beside}. Save it as 'native'"
            )
    plain = config.backbone.split(".")[0]
    if format == "official" and config.dilation and plain in BASIC_BLOCKS:
        raise CheckpointError(
            f"the format 'official' cannot hold dilation = True with backbone = {plain!r}: the reference code has no such "
            "network. Save it as 'huggingface' or 'native'"
        )
    if plain not in RESNETS.values():
        raise CheckpointError(
            f"the format {format!r} cannot hold backbone = {config.backbone!r}: it supports only "
            f"{', '.join(RESNETS.values())}. Save it as 'native'"
        )
