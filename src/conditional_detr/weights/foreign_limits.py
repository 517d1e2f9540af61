"""Which ResNet lies in a foreign checkpoint, and which of our networks such a checkpoint can hold."""

import re
from typing import Any

from torch import Tensor

from conditional_detr.config.presets import PRESETS
from conditional_detr.config.schema import SIZES, ModelConfig
from conditional_detr.errors import CheckpointError

# Blocks a stage, and whether they are bottlenecks.
RESNETS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
BASIC_BLOCKS = ("resnet18", "resnet34")  # torchvision, which the releases build on, cannot dilate these
# What a foreign detector is, apart from its sizes: our fields, by the one that decides.
DECIDED = ("spatial_query", "lambda_q", "reference_points", "box_offset", "classification")
FOREIGN_CHOICES: dict[str, dict[str, Any]] = {
    model.cross_attention: {field: getattr(model, field) for field in DECIDED}
    for model in (PRESETS[name].model for name in ("conditional-detr-r50", "detr-r50"))
}
# What it may be of any value; a field that is neither here nor above must have its default, which is the paper's.
FREE = SIZES | {"backbone", "dilation", "strides", "cross_attention", "spatial_init"}


def backbone_of(state: dict[str, Tensor], prefix: str, file: object) -> str:
    """The ResNet whose tensors, in torchvision's names, lie under a prefix.

    Raises
    ------
    CheckpointError : what lies there is no ResNet that is known
    """
    blocks = {m.groups() for key in state if (m := re.match(re.escape(prefix) + r"layer(\d)\.(\d+)\.", key))}
    depths = tuple(sum(stage == str(i) for stage, _ in blocks) for i in range(1, 5))
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    if (depths, bottleneck) not in RESNETS:
        found = f"stages of {', '.join(map(str, depths))} blocks" if blocks else "no tensor of one"
        raise CheckpointError(f"{file} must hold a ResNet-18, -34, -50, -101 or -152 under {prefix}*; found {found}")
    return RESNETS[depths, bottleneck]


def named(resnet: str, stated: object) -> str:
    """timm's full name of a ResNet: what a checkpoint says it is, if that is this network, else the one of torchvision."""
    return stated if isinstance(stated, str) and stated.split(".")[0] == resnet and "." in stated else f"{resnet}.tv_in1k"


def check_can_be_held(config: ModelConfig, format: str) -> None:
    """A foreign format has room for two rows of choices and for ResNets.

    Raises
    ------
    CheckpointError : names the first field that it has no room for
    """
    if config.cross_attention not in FOREIGN_CHOICES:
        raise CheckpointError(
            f"the format {format!r} cannot hold cross_attention = {config.cross_attention!r}. Save it as 'native'"
        )
    decided = FOREIGN_CHOICES[config.cross_attention]
    fixed = {field: info.default for field, info in ModelConfig.model_fields.items() if field not in FREE | decided.keys()}
    for field, value in {**decided, **fixed, "strides": (16,) if config.dilation else (32,)}.items():
        if getattr(config, field) != value:
            beside = f" with cross_attention = {config.cross_attention!r}" if field in decided else ""
            raise CheckpointError(
                f"the format {format!r} cannot hold {field} = {getattr(config, field)!r}: it has room for {value!r} "
                f"only{beside}. Save it as 'native'"
            )
    plain = config.backbone.split(".")[0]
    if format == "official" and config.dilation and plain in BASIC_BLOCKS:
        raise CheckpointError(
            f"the format 'official' cannot hold dilation = True with backbone = {plain!r}: the reference code has no such "
            "network. Save it as 'huggingface' or 'native'"
        )
    if plain not in RESNETS.values():
        raise CheckpointError(
            f"the format {format!r} cannot hold backbone = {config.backbone!r}: it has room for "
            f"{', '.join(RESNETS.values())}. Save it as 'native'"
        )
