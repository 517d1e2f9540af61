"""The named model configurations."""

from typing import Any, Literal

from conditional_detr.config.messages import updated
from conditional_detr.config.parts import with_overrides
from conditional_detr.config.recipes import RECIPES, RecipeConfig
from conditional_detr.config.schema import ModelConfig, Settings
from conditional_detr.errors import ConfigError, did_you_mean


class Preset(Settings):
    """Network, default image size (shorter side, px) and default recipe of a model name."""

    model: ModelConfig
    imgsz: int
    recipe: Literal["paper", "fast"]


# The baseline DETR, expressed as fields of `ModelConfig`.
DETR_CHOICES = {
    "cross_attention": "additive",
    "reference_points": "origin",
    "box_offset": False,
    "classification": "softmax",
    "num_queries": 100,
}


# Deformable DETR on a single scale, and UP-DETR, expressed in the same way.
DEFORMABLE_CHOICES = {
    "encoder_attention": "deformable",
    "cross_attention": "deformable",
    "reference_points": "linear",
    "neck": "group_norm",
    "half_cell_positions": True,
    "learned_content": True,
    "decoder_norm": False,
    "size_logit": -2.0,
}
UP_DETR_CHOICES = {**DETR_CHOICES, "norm": "pre"}
FAMILIES: dict[str, dict[str, Any]] = {
    "conditional-detr": {},
    "conditional-detr-ms": {"strides": (8, 16, 32)},
    "detr": DETR_CHOICES,
    "deformable-detr-ss": DEFORMABLE_CHOICES,
    "up-detr": UP_DETR_CHOICES,
}
NEVER_DILATED = {"conditional-detr-ms", "up-detr"}  # several levels do not need it, and UP-DETR's paper does not have it


TINY = ModelConfig(
    backbone="tf_efficientnet_lite0.in1k",
    strides=(16,),
    num_queries=100,
    hidden_dim=128,
    encoder_layers=2,
    decoder_layers=3,
    feedforward_dim=512,
    dropout=0.0,
    spatial_init="local",
)


def _paper(backbone: str, dilation: bool = False) -> Preset:
    return Preset(
        model=ModelConfig(backbone=backbone, strides=(16,) if dilation else (32,), dilation=dilation), imgsz=800, recipe="paper"
    )


_SYSTEMS = {
    "tiny": Preset(model=TINY, imgsz=320, recipe="fast"),
    "r18": _paper("resnet18.tv_in1k"),
    "r50": _paper("resnet50.tv_in1k"),
    "r101": _paper("resnet101.tv_in1k"),
    "dc5-r50": _paper("resnet50.tv_in1k", dilation=True),
    "dc5-r101": _paper("resnet101.tv_in1k", dilation=True),
}


def _of_family(family: str, size: str) -> Preset:
    chosen = _SYSTEMS[size]
    choices = dict(FAMILIES[family])
    if family == "deformable-detr-ss" and size != "tiny":
        choices["feedforward_dim"] = 1024
    return chosen.model_copy(update={"model": with_overrides(chosen.model, choices, size)})


PRESETS = {
    f"{family}-{size}": _of_family(family, size)
    for family in FAMILIES
    for size in _SYSTEMS
    if not size.startswith("dc5") or family not in NEVER_DILATED
}


# Settings of the recipe `paper` in which the papers of other systems differ from Conditional DETR's. UP-DETR: fine-tuning.
PAPER_OF_DEFORMABLE = {"lr": 2e-4, "lr_backbone": 2e-5, "batch": 32}
PAPER_OF_UP_DETR = {"lr": 1e-4, "lr_backbone": 5e-5, "epochs": 300, "lr_drop_at": 200 / 300}
PAPERS = {"deformable-detr-ss-*": PAPER_OF_DEFORMABLE, "up-detr-*": PAPER_OF_UP_DETR}


def recipe_for(model: ModelConfig, name: Literal["paper", "fast"]) -> RecipeConfig:
    """Return a recipe for a model. The recipe `paper` has the settings of the paper of the model's system.

    Source: Deformable DETR (Zhu et al., ICLR 2021) and UP-DETR (Dai et al., CVPR 2021), released code.
    """
    if name == "fast":
        return RECIPES[name]
    if model.cross_attention == "deformable":
        return updated(RECIPES[name], PAPER_OF_DEFORMABLE, "paper")
    if model.cross_attention == "additive" and model.norm == "pre":
        return updated(RECIPES[name], PAPER_OF_UP_DETR, "paper")
    return RECIPES[name]


def recipe_of(model: ModelConfig) -> Literal["paper", "fast"]:
    """Return the recipe of the preset with the same backbone, or "paper" if there is none."""
    return next((p.recipe for p in PRESETS.values() if p.model.backbone == model.backbone), "paper")


def imgsz_of(model: ModelConfig) -> int:
    """Return the image size (shorter side, px) of the preset with the same backbone, or 800 if there is none."""
    return next((p.imgsz for p in PRESETS.values() if p.model.backbone == model.backbone), 800)


def preset(name: str) -> Preset:
    """Return the preset of a model name.

    Raises
    ------
    ConfigError : the name is unknown; the message suggests the most similar one
    """
    if name not in PRESETS:
        raise ConfigError(f"{name!r} is not a model name. {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
