"""Settings that the data decide where nobody else has, each with its reason."""

import math
import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.config.messages import updated
from conditional_detr.config.parts import idle_fields, with_overrides
from conditional_detr.config.presets import PRESETS
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.data.index import SplitIndex
from conditional_detr.data.invariance import edge_profiles, upright_evidence
from conditional_detr.device.choose import choose_device
from conditional_detr.errors import shortened_list
from conditional_detr.factory.build import preprocessing_for
from conditional_detr.model.backbone.timm_backbone import strides_of
from conditional_detr.training.objective.objective import class_loss_fits
from conditional_detr.training.setup.initial_weights import differing_fields
from conditional_detr.training.setup.memory_estimate import free_bytes, kept_bytes
from conditional_detr.weights import native
from conditional_detr.weights.discovery import SHIPPED, find_checkpoint, read_checkpoint, shipped

USUAL_START = "conditional-detr-tiny-shapes"  # of those that come with the package
FEWEST_QUERIES, MOST_QUERIES, HEADROOM = 20, 1000, 2.0
SMALL = 0.1  # share of the objects, every class counting alike, that may be smaller than the input's size is chosen for
FEW = 10  # objects: a class of fewer counts less than another
CELLS = 1.5  # of the feature map, a side, over such an object
USUAL_IMGSZ, LARGEST_IMGSZ, MOST_ENLARGED = 320, 640, 2.0
MULTIPLE = 32  # px
SMALLEST_AT_FIRST = 160  # px of the shorter side, of images that grow
SHARE_OF_MEMORY = 0.5  # of what is free, for what a step keeps for its backward pass
MOST_A_PIXEL = 4096  # bytes that any of our models keeps


# Mirrored, these are something else: characters and numbers, alone or in short codes, and sides.
CODE = re.compile(r"[^\W\d_]?\d+[^\W\d_]?|[^\W\d_]")
SIDE = re.compile(r"(?<![^\W_])(left|right)(?![^\W_])", re.IGNORECASE)
MANY_CODES = 0.5  # of the classes
TURNED = {"vflip": "upside down", "transpose": "with rows as columns"}
UPRIGHT = 0.75  # of images and their turned copies are told apart: then they are held in one way


class Choice(NamedTuple):
    """A setting as --set knows it, its value, and why."""

    setting: str
    value: Any
    reason: str

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, int | float) else self.value
        return f"{self.setting} = {str(self.value).lower() if isinstance(self.value, bool) else value}: {self.reason}"


@dataclass(frozen=True)
class Sources:
    """The training images, and the model that a run begins with; what several rules ask is found out once."""

    index: SplitIndex
    model_source: str

    @property
    def class_names(self) -> list[str]:
        """In the order of their indices."""
        return [category.name for category in self.index.categories]

    @cached_property
    def turns(self) -> dict[str, Choice]:
        """By setting."""
        return {choice.setting: choice for choice in turns(self.index)}

    @cached_property
    def trained(self) -> ModelConfig | None:
        """What a trained model is made of; None for a model name."""
        path = find_checkpoint(self.model_source)
        return None if path is None else read_checkpoint(path).config


@dataclass(frozen=True)
class Context:
    """What a rule may go by: the settings with all choices so far, the data and the model."""

    config: RunConfig
    sources: Sources

    @property
    def model(self) -> ModelConfig | None:
        """What the run's model is made of."""
        return model_of(self.config) if self.is_new else self.sources.trained

    @property
    def is_new(self) -> bool:
        """Whether the model is built by name: a trained one keeps its parts and its size."""
        return self.config.model in PRESETS


Rule = Callable[[Context], Choice | None]


def of_new_model(rule: Rule) -> Rule:
    """The rule, for models that are built by name."""
    return lambda context: rule(context) if context.is_new else None


# Setting, as --set knows it → the rule that chooses it; None leaves it as it is. Later rules see the choices of earlier ones.
# `--resume` keeps the value that a run began with for each of them.
RULES: dict[str, Rule] = {
    "hflip": lambda context: flips(context.sources.class_names),
    "vflip": lambda context: turn(context, "vflip"),
    "transpose": lambda context: turn(context, "transpose"),
    "model.reference_points": of_new_model(lambda context: as_source_has(context, "reference_points", reference_points)),
    "model.neck": of_new_model(lambda context: as_source_has(context, "neck", neck)),
    "model.pixel_aligned_positions": of_new_model(
        lambda context: as_source_has(context, "pixel_aligned_positions", pixel_aligned_positions)
    ),
    "model.num_queries": of_new_model(lambda context: queries(context.sources.index)),
    "imgsz": of_new_model(lambda context: input_size(context.sources.index, model_of(context.config).finest_stride)),
    "init_from": of_new_model(lambda context: beginning(context.config, context.sources.class_names)),
    "batch": of_new_model(lambda context: batch(context.config, free_bytes(choose_device(context.config.device)))),
    "progressive_resize_from": lambda context: growth(context.config, context.model),
    "class_loss": lambda context: class_loss(context.config, context.model),
}


def resolve_auto(
    config: RunConfig, asked_for: Set[str], train: SplitIndex, saved: RunConfig | None = None
) -> tuple[RunConfig, list[str]]:
    """The settings of a run with what the data decide, and a line for each choice. Only the recipe `fast` leaves it to them.

    Parameters
    ----------
    config : all settings
    asked_for : names of those that somebody chose; they stay
    train : the training images
    saved : the settings that a run which goes on began with: what was decided then stays, memory may be another today
    """
    if config.recipe != "fast":
        return config, []
    sources, lines = Sources(train, config.model), []
    for setting, rule in RULES.items():
        if setting in asked_for:
            continue
        choice = rule(Context(config, sources)) if saved is None else choice_of(saved, setting)
        if choice is not None:
            config = with_choice(config, choice)
            lines += [] if setting == "init_from" or saved else [str(choice)]  # of "init_from" the model's own line tells
    return config, lines


def choice_of(saved: RunConfig, setting: str) -> Choice | None:
    """What a run began with; None where it left the setting of a model as it was."""
    if setting.startswith("model."):
        field = setting.removeprefix("model.")
        return Choice(setting, saved.model_overrides[field], "") if field in saved.model_overrides else None
    return Choice(setting, getattr(saved if setting in RunConfig.model_fields else saved.training, setting), "")


def with_choice(config: RunConfig, choice: Choice) -> RunConfig:
    """The settings with one of them decided."""
    setting, value, _ = choice
    if setting.startswith("model."):
        return updated(config, {"model_overrides": config.model_overrides | {setting.removeprefix("model."): value}}, "train")
    if setting in RunConfig.model_fields:
        return updated(config, {setting: value}, "train")
    return updated(config, {"training": updated(config.training, {setting: value}, "train")}, "train")


def model_of(config: RunConfig) -> ModelConfig:
    """What a new model of a run is made of."""
    return with_overrides(PRESETS[config.model].model, config.model_overrides, "train")


def as_source_has(context: Context, field: str, rule: Callable[[ModelConfig], Choice | None]) -> Choice | None:
    """A part of a new model: that of the trained model that it begins with, else what pays."""
    model, source = model_of(context.config), context.config.training.init_from
    path = find_checkpoint(source) if source else None
    if path is None:
        return rule(model)
    had = getattr(read_checkpoint(path).config, field)
    return None if had == getattr(model, field) else Choice(f"model.{field}", had, f"as {source} has it")


def reference_points(model: ModelConfig) -> Choice | None:
    """Reference points from the image; None where the model has none, or a form that is not the paper's."""
    if (
        model.reference_points != "predicted"
        or model.cross_attention != "conditional"
        or "reference_points" in idle_fields(model)
    ):
        return None
    return Choice("model.reference_points", "encoder", "queries start where the image seems to have objects, and learn sooner")


def neck(model: ModelConfig) -> Choice | None:
    """Features of half the stride too; None where there are none, where the stride is the paper's, or with several levels."""
    several, stride = len(model.strides) > 1, model.finest_stride
    if several or model.dilation or stride >= 32 or stride // 2 not in strides_of(model.backbone):
        return None
    return Choice("model.neck", "space_to_depth", "the stage before shows where in a cell of the feature map an object ends")


def pixel_aligned_positions(model: ModelConfig) -> Choice:
    """Cells lie where their pixels are."""
    return Choice("model.pixel_aligned_positions", True, "images of different sizes then agree on where their cells lie")


def beginning(config: RunConfig, names: list[str]) -> Choice | None:
    """A trained model that comes with the package: one that knows these classes, else the one to begin with; None where none
    has the same parts, or random weights are wished for.
    """
    model = model_of(config)
    fitting = [name for name in shipped() if not differing_fields(model, native.read_configs(SHIPPED / name)[0])]
    if not fitting or not config.pretrained_backbone:
        return None
    knowing = [name for name in fitting if native.read_description(SHIPPED / name)["class_names"] == names]
    usual = [name for name in fitting if name == USUAL_START]
    return Choice("init_from", [*knowing, *usual, *fitting][0], "comes with the package")


def queries(train: SplitIndex) -> Choice:
    """Twice as many as the fullest training image has objects: new images may be fuller."""
    most = int(np.diff(train.first).max())
    wanted = math.ceil(most * HEADROOM / 10) * 10
    value = min(max(FEWEST_QUERIES, wanted), max(MOST_QUERIES, most))
    return Choice("model.num_queries", value, f"the fullest training image has {most} objects")


def input_size(train: SplitIndex, stride: int) -> Choice:
    """The shorter side, px, at which small objects are about one and a half cells of the feature map wide.

    Every class counts alike, as it does in AP. Never less than images have up to 320 px, which details are worth
    that boxes do not tell of; never more than 640 px or twice what they have.
    """
    shortest = train.sizes_hw.min(1)
    owners = np.repeat(np.arange(len(train)), np.diff(train.first))
    sides = np.sqrt(np.prod(train.boxes_xyxy[:, 2:] - train.boxes_xyxy[:, :2], axis=1))
    weights = 1 / np.bincount(train.labels).clip(min=FEW)[train.labels]
    small = float(np.quantile(sides / shortest[owners], SMALL, weights=weights, method="inverted_cdf"))
    native = float(np.median(shortest))
    wanted = CELLS * stride / small
    low, high = min(USUAL_IMGSZ, native), min(LARGEST_IMGSZ, MOST_ENLARGED * native)
    value = max(MULTIPLE, round(min(max(wanted, low), high) / MULTIPLE) * MULTIPLE)
    reason = (
        f"a tenth of the objects, classes alike, are below {small:.0%} of the shorter side, then {small * value:.0f} px; "
        f"a cell of the feature map has {stride}"
    )
    return Choice("imgsz", value, reason)


def growth(config: RunConfig, model: ModelConfig | None) -> Choice:
    """Images begin with a part of their size, but not with less than 160 px."""
    if model is None or not model.pixel_aligned_positions:
        return Choice(
            "progressive_resize_from", 1.0, "without pixel_aligned_positions what is learned at one size misleads at another"
        )
    value = min(1.0, max(config.training.progressive_resize_from, SMALLEST_AT_FIRST / config.imgsz))
    if value == 1:
        return Choice(
            "progressive_resize_from", value, "images are small enough to learn from all of their size from the start"
        )
    first = round(value * config.imgsz)
    return Choice(
        "progressive_resize_from",
        value,
        f"images begin at {first} px, where steps are cheap, and have all their size for the last fifth",
    )


def class_loss(config: RunConfig, model: ModelConfig | None) -> Choice | None:
    """The model's own loss of classes where the recipe's is made for another classification."""
    if model is None or class_loss_fits(config.training.class_loss, model.classification):
        return None
    return Choice(
        "class_loss",
        "model",
        f"{config.training.class_loss} is for focal classification, the model's is {model.classification}",
    )


def flips(names: list[str]) -> Choice | None:
    """No mirroring where it would make another class, or none, of an object; None where nothing speaks against it."""
    sides = [name for name in names if SIDE.search(name)]
    codes = [name for name in names if CODE.fullmatch(name)]
    asymmetric = sides or (codes if len(codes) >= MANY_CODES * len(names) else [])
    if not asymmetric:
        return None
    return Choice("hflip", 0.0, f"mirrored, {shortened_list(asymmetric)} would be something else")


def turns(train: SplitIndex) -> list[Choice]:
    """Images upside down, or with rows as columns, where nothing tells them from those that are not."""
    profiles = edge_profiles(train)
    made = []
    for turn, how in TURNED.items():
        sure = upright_evidence(profiles, turn)
        if sure is not None:
            turned = sure < UPRIGHT
            seen = f"images and objects {'look alike' if turned else 'do not look alike'} {how}"
            made.append(Choice(turn, 0.5 if turned else 0.0, f"{seen}: told apart at {sure:.0%}, 50% being chance"))
    return made


def turn(context: Context, setting: str) -> Choice | None:
    """As the images say; None where they may not even be mirrored."""
    return context.sources.turns.get(setting) if context.config.training.hflip else None


def batch(config: RunConfig, free: int) -> Choice | None:
    """Half as many images a step, and half again, until it fits into half of the free memory; None where it does.

    Parameters
    ----------
    config : of the run
    free : bytes
    """
    longest = preprocessing_for(model_of(config), config.imgsz).longest
    room, size = SHARE_OF_MEMORY * free, config.training.batch
    if size * config.imgsz * longest * MOST_A_PIXEL <= room:
        return None
    each = kept_bytes(model_of(config), config.imgsz, longest)
    while size > 1 and size * each > room:
        size //= 2
    if size == config.training.batch:
        return None
    return Choice("batch", size, f"an image needs up to {each / 2**30:.1f} GiB to learn from, and {free / 2**30:.1f} are free")
