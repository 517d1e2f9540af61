"""Settings that the data decide where nobody else has, each with its reason."""

import math
import re
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
from conditional_detr.factory.build import preprocessing_for
from conditional_detr.model.backbone.timm_backbone import strides_of
from conditional_detr.training.setup.initial_weights import differing_fields
from conditional_detr.training.setup.memory_estimate import free_bytes, kept_bytes
from conditional_detr.weights import native
from conditional_detr.weights.discovery import SHIPPED, find_checkpoint, read_checkpoint, shipped

USUAL_START = "conditional-detr-tiny-shapes"  # of those that come with the package
PARTS = ("reference_points", "neck", "pixel_aligned_positions")  # of a new model, that are decided here; its queries are too
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


def resolve_auto(
    config: RunConfig, asked_for: set[str], train: SplitIndex, saved: RunConfig | None = None
) -> tuple[RunConfig, list[str]]:
    """The settings of a run with what the data decide, and a line for each choice. Only the recipe `fast` leaves it to them.

    A trained model keeps its queries and its size.

    Parameters
    ----------
    config : all settings
    asked_for : names of those that somebody chose; they stay
    train : the training images
    saved : the settings that a run which goes on began with: what was decided then stays
    """
    if config.recipe != "fast":
        return config, []
    if saved is not None:
        return with_those_of(config, asked_for, saved), []
    made: list[Choice] = []

    def decide(choice: Choice | None) -> None:
        nonlocal config
        if choice is not None and choice.setting not in asked_for:
            config = with_choice(config, choice)
            made.append(choice)

    names = [category.name for category in train.categories]
    decide(flips(names))
    if config.training.hflip and not asked_for >= set(TURNED):
        for turn in turns(train):
            decide(turn)
    if config.model in PRESETS:
        for part in parts(config):
            decide(part)
        decide(queries(train))
        decide(input_size(train, model_of(config).finest_stride))
        decide(beginning(config, names))
        decide(batch(config, free_bytes(choose_device(config.device))))
    decide(growth(config))
    return config, [str(choice) for choice in made if choice.setting != "init_from"]  # of which the model's own line tells


def with_those_of(config: RunConfig, asked_for: set[str], saved: RunConfig) -> RunConfig:
    """The settings of a run that goes on, with what was decided when it began: memory may be another today."""
    decided = {
        "imgsz": saved.imgsz,
        "hflip": saved.training.hflip,
        "vflip": saved.training.vflip,
        "transpose": saved.training.transpose,
        "init_from": saved.training.init_from,
        "progressive_resize_from": saved.training.progressive_resize_from,
        "batch": saved.training.batch,
    }
    decided |= {
        f"model.{field}": saved.model_overrides[field] for field in (*PARTS, "num_queries") if field in saved.model_overrides
    }
    for setting, value in decided.items():
        if setting not in asked_for:
            config = with_choice(config, Choice(setting, value, ""))
    return config


def model_of(config: RunConfig) -> ModelConfig:
    """What a new model of a run is made of."""
    return with_overrides(PRESETS[config.model].model, config.model_overrides, "train")


def with_choice(config: RunConfig, choice: Choice) -> RunConfig:
    """The settings with one of them decided."""
    setting, value, _ = choice
    if setting.startswith("model."):
        return updated(config, {"model_overrides": config.model_overrides | {setting.removeprefix("model."): value}}, "train")
    if setting == "imgsz":
        return updated(config, {setting: value}, "train")
    return updated(config, {"training": updated(config.training, {setting: value}, "train")}, "train")


def parts(config: RunConfig) -> list[Choice | None]:
    """What a new model has that the paper's have not: what the model has that somebody begins with, else what pays."""
    model, source = model_of(config), config.training.init_from
    path = find_checkpoint(source) if source else None
    if path is not None:
        had = read_checkpoint(path).config
        different = [field for field in PARTS if getattr(had, field) != getattr(model, field)]
        return [Choice(f"model.{field}", getattr(had, field), f"as {source} has it") for field in different]
    agree = Choice("model.pixel_aligned_positions", True, "images of different sizes then agree on where their cells lie")
    return [places(model), edges(model), agree]


def places(model: ModelConfig) -> Choice | None:
    """Reference points from the image; None where the model has none, or a form that is not the paper's."""
    if (
        model.reference_points != "predicted"
        or model.cross_attention != "conditional"
        or "reference_points" in idle_fields(model)
    ):
        return None
    return Choice("model.reference_points", "encoder", "queries start where the image seems to have objects, and learn sooner")


def edges(model: ModelConfig) -> Choice | None:
    """Features of half the stride too; None where there are none, or where the stride is the paper's."""
    if model.dilation or model.finest_stride >= 32 or model.finest_stride // 2 not in strides_of(model.backbone):
        return None
    return Choice("model.neck", "space_to_depth", "the stage before shows where in a cell of the feature map an object ends")


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
    """Twice as many as the fullest training image has objects: new images may be fuller, and queries share places."""
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


def growth(config: RunConfig) -> Choice:
    """Images begin with a part of their size, but not with less than 160 px."""
    if not has_exact_positions(config):
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


def has_exact_positions(config: RunConfig) -> bool:
    """Of a new model, or of the trained one that goes on learning."""
    if config.model in PRESETS:
        return model_of(config).pixel_aligned_positions
    path = find_checkpoint(config.model)
    return path is not None and read_checkpoint(path).config.pixel_aligned_positions


def flips(names: list[str]) -> Choice | None:
    """No mirroring where it would make another class, or none, of an object; None where nothing speaks against it."""
    sides = [name for name in names if SIDE.search(name)]
    codes = [name for name in names if CODE.fullmatch(name)]
    asymmetric = sides or (codes if len(codes) >= MANY_CODES * len(names) else [])
    if not asymmetric:
        return None
    some = ", ".join(asymmetric[:3]) + (", …" if len(asymmetric) > 3 else "")
    return Choice("hflip", 0.0, f"mirrored, {some} would be something else")


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
