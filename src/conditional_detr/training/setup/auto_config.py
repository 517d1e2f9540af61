"""Settings that are chosen from the data unless the user sets them. Each choice has a reason."""

import math
import re
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.config.messages import updated
from conditional_detr.config.parts import unused_fields, with_overrides
from conditional_detr.config.presets import PRESETS
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.data.index import SplitIndex
from conditional_detr.data.repeat_sampling import image_fractions
from conditional_detr.device.choose import choose_device
from conditional_detr.errors import plural, shortened_list
from conditional_detr.factory.build import preprocessing_for
from conditional_detr.model.backbone.timm_backbone import strides_of
from conditional_detr.training.objective.objective import class_loss_fits
from conditional_detr.training.setup.initial_weights import differing_fields
from conditional_detr.training.setup.invariance import edge_profiles, orientation_score
from conditional_detr.training.setup.memory_estimate import activation_bytes, free_bytes
from conditional_detr.weights.description import read_configs, read_description
from conditional_detr.weights.discovery import read_checkpoint
from conditional_detr.weights.recognise import SHIPPED, find_checkpoint, shipped

DEFAULT_START = "conditional-detr-tiny-shapes"  # the preferred bundled model if none was trained on the same classes
MIN_QUERIES, MAX_QUERIES, HEADROOM = 20, 1000, 2.0  # HEADROOM: queries per object of the image with the most objects
SMALL = 0.1  # quantile of the object sizes, each class weighted equally, that the image size is chosen for
FEW = 10  # a class with fewer objects than this has a lower weight
CELLS = 1.5  # width of an object of that size in cells of the feature map
DEFAULT_IMGSZ, MAX_IMGSZ, MAX_ENLARGEMENT = 320, 640, 2.0  # px, px, and a multiple of the images' own size
RARE_FRACTION = 0.05  # a class in a smaller fraction of the training images is rare
REPEAT_THRESHOLD = 0.1  # of repeat-factor sampling, if a class is rare
MULTIPLE = 32  # the image size is a multiple of this, px
SMALLEST_AT_FIRST = 160  # minimum shorter side at the start of progressive resizing, px
MEMORY_FRACTION = 0.5  # fraction of the free memory that activations stored for the backward pass may take
MAX_BYTES_PER_PIXEL = 16_384  # upper limit of the bytes per pixel that any of our models stores for the backward pass


# Class names whose objects change their meaning when mirrored: characters and numbers, alone or in short codes, and sides.
CODE = re.compile(r"[^\W\d_]?\d+[^\W\d_]?|[^\W\d_]")
SIDE = re.compile(r"(?<![^\W_])(left|right)(?![^\W_])", re.IGNORECASE)
MANY_CODES = 0.5  # minimum fraction of the classes that must be such codes
TURNED = {"vflip": "when turned upside down", "transpose": "when rows and columns are swapped"}
UPRIGHT = 0.75  # from this accuracy of telling images from their turned copies, images have a fixed orientation


class Choice(NamedTuple):
    """A chosen setting: its name as in --set, its value and the reason."""

    setting: str
    value: Any
    reason: str

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, int | float) else self.value
        return f"{self.setting} = {str(self.value).lower() if isinstance(self.value, bool) else value}: {self.reason}"


@dataclass(frozen=True)
class Sources:
    """The training images and the model source of a run. Results that several rules need are cached."""

    index: SplitIndex
    model_source: str

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of their class indices."""
        return [category.name for category in self.index.categories]

    @cached_property
    def turns(self) -> dict[str, Choice]:
        """Choices for the augmentations `vflip` and `transpose`, by setting."""
        return {choice.setting: choice for choice in turns(self.index)}

    @cached_property
    def trained(self) -> ModelConfig | None:
        """Configuration of the trained model that the run fine-tunes; None for a model name."""
        path = find_checkpoint(self.model_source)
        return None if path is None else read_checkpoint(path).config


@dataclass(frozen=True)
class Context:
    """Input of a rule: the settings with all choices so far, the data and the model."""

    config: RunConfig
    sources: Sources

    @property
    def model(self) -> ModelConfig | None:
        """Configuration of the run's model."""
        return model_of(self.config) if self.is_new else self.sources.trained

    @property
    def is_new(self) -> bool:
        """Whether the model is built from a model name. A trained model keeps its architecture and its image size."""
        return self.config.model in PRESETS


Rule = Callable[[Context], Choice | None]


def of_new_model(rule: Rule) -> Rule:
    """Restrict a rule to new models, built from a model name."""
    return lambda context: rule(context) if context.is_new else None


# Setting, named as in --set → the rule that chooses its value. A rule returns None to leave the setting unchanged.
# Rules run in this order and see the choices of earlier rules. `--resume` keeps the values that the run started with.
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
    "repeat_threshold": lambda context: repeats(context.sources.index),
}


def resolve_auto(
    config: RunConfig, user_settings: Set[str], train: SplitIndex, saved: RunConfig | None = None
) -> tuple[RunConfig, list[str]]:
    """Choose settings from the data. Only the recipe `fast` does this.

    Parameters
    ----------
    config : all settings
    user_settings : names of the settings that the user set; they stay unchanged
    train : the training images
    saved : settings that a resumed run started with. Earlier choices are kept, even if, for example, less memory is free now

    Returns
    -------
    the settings including the choices, and one line to print per choice
    """
    if config.recipe != "fast":
        return config, []
    sources, lines = Sources(train, config.model), []
    for setting, rule in RULES.items():
        if setting in user_settings:
            continue
        choice = rule(Context(config, sources)) if saved is None else choice_of(saved, setting)
        if choice is not None:
            config = with_choice(config, choice)
            lines += [] if setting == "init_from" or saved else [str(choice)]  # init_from is printed with the model
    return config, lines


def choice_of(saved: RunConfig, setting: str) -> Choice | None:
    """Return the choice that a saved run started with; None if the run did not change this field of the model."""
    if setting.startswith("model."):
        field = setting.removeprefix("model.")
        return Choice(setting, saved.model_overrides[field], "") if field in saved.model_overrides else None
    return Choice(setting, getattr(saved if setting in RunConfig.model_fields else saved.training, setting), "")


def with_choice(config: RunConfig, choice: Choice) -> RunConfig:
    """Copy the settings with one choice applied."""
    setting, value, _ = choice
    if setting.startswith("model."):
        return updated(config, {"model_overrides": config.model_overrides | {setting.removeprefix("model."): value}}, "train")
    if setting in RunConfig.model_fields:
        return updated(config, {setting: value}, "train")
    return updated(config, {"training": updated(config.training, {setting: value}, "train")}, "train")


def model_of(config: RunConfig) -> ModelConfig:
    """Configuration of the new model of a run."""
    return with_overrides(PRESETS[config.model].model, config.model_overrides, "train")


def as_source_has(context: Context, field: str, rule: Callable[[ModelConfig], Choice | None]) -> Choice | None:
    """Choose a field of a new model: the value of the model whose weights initialise it, otherwise the choice of the rule."""
    model, source = model_of(context.config), context.config.training.init_from
    path = find_checkpoint(source) if source else None
    if path is None:
        return rule(model)
    other = read_checkpoint(path).config
    if len(other.strides) != len(model.strides):
        return rule(model)  # the weights do not fit, whatever this field is
    had = getattr(other, field)
    return None if had == getattr(model, field) else Choice(f"model.{field}", had, f"as in {source} (initial weights)")


def reference_points(model: ModelConfig) -> Choice | None:
    """Choose reference points from the encoder's output; None if the model has none, or not the paper's variant of them."""
    if (
        model.reference_points != "predicted"
        or model.cross_attention != "conditional"
        or "reference_points" in unused_fields(model)
    ):
        return None
    return Choice("model.reference_points", "encoder", "queries start at likely object centres, which speeds up training")


def neck(model: ModelConfig) -> Choice | None:
    """Add the features at half the stride; None if the backbone has none, at the paper's stride, or with another neck."""
    other, stride = len(model.strides) > 1 or model.neck != "last", model.finest_stride
    if other or model.dilation or stride >= 32 or stride // 2 not in strides_of(model.backbone):
        return None
    return Choice("model.neck", "space_to_depth", "features of half the stride show where in a cell an object ends")


def pixel_aligned_positions(model: ModelConfig) -> Choice:
    """Compute the positions of cells from pixels."""
    return Choice("model.pixel_aligned_positions", True, "positions in the feature map do not depend on the image size")


def beginning(config: RunConfig, names: list[str]) -> Choice | None:
    """Choose a bundled model to take weights from, preferably one trained on the same classes.

    None if no bundled model has the same architecture, or if the user asked for random weights.
    """
    model = model_of(config)
    fitting = [name for name in shipped() if not differing_fields(model, read_configs(SHIPPED / name)[0])]
    if not fitting or not config.pretrained_backbone:
        return None
    knowing = [name for name in fitting if read_description(SHIPPED / name)["class_names"] == names]
    usual = [name for name in fitting if name == DEFAULT_START]
    return Choice("init_from", [*knowing, *usual, *fitting][0], "bundled with the package")


def queries(train: SplitIndex) -> Choice:
    """Choose twice as many queries as the fullest training image has objects, because new images may have more."""
    most = int(np.diff(train.first).max())
    wanted = math.ceil(most * HEADROOM / 10) * 10
    value = min(max(MIN_QUERIES, wanted), max(MAX_QUERIES, most))
    return Choice("model.num_queries", value, f"a training image has up to {most} objects")


def input_size(train: SplitIndex, stride: int) -> Choice:
    """Choose the shorter side, px, so that small objects are about 1.5 cells of the feature map wide.

    Each class has the same weight, as in AP. The result is at least the images' own size or 320 px, whichever is less,
    because objects have details that the sizes of their boxes do not show. It is at most 640 px or twice the images' own
    size, whichever is less.
    """
    shortest = train.sizes_hw.min(1)
    owners = np.repeat(np.arange(len(train)), np.diff(train.first))
    sides = np.sqrt(np.prod(train.boxes_xyxy[:, 2:] - train.boxes_xyxy[:, :2], axis=1))
    weights = 1 / np.bincount(train.labels).clip(min=FEW)[train.labels]
    small = float(np.quantile(sides / shortest[owners], SMALL, weights=weights, method="inverted_cdf"))
    native = float(np.median(shortest))
    wanted = CELLS * stride / small
    low, high = min(DEFAULT_IMGSZ, native), min(MAX_IMGSZ, MAX_ENLARGEMENT * native)
    value = max(MULTIPLE, round(min(max(wanted, low), high) / MULTIPLE) * MULTIPLE)
    reason = (
        f"small objects (10th percentile) are then {small * value:.0f} px wide; the aim is {CELLS * stride:g} px, "
        f"{CELLS:g} cells of the feature map, rounded to a multiple of {MULTIPLE} px"
    )
    return Choice("imgsz", value, reason)


def growth(config: RunConfig, model: ModelConfig | None) -> Choice:
    """Choose the image size at the start of progressive resizing, at least 160 px."""
    if model is None or not model.pixel_aligned_positions:
        return Choice(
            "progressive_resize_from", 1.0, "without pixel_aligned_positions, training on smaller images gives inexact boxes"
        )
    value = min(1.0, max(config.training.progressive_resize_from, SMALLEST_AT_FIRST / config.imgsz))
    if value == 1:
        return Choice("progressive_resize_from", value, "images are small enough to train at full size from the start")
    first = round(value * config.imgsz)
    return Choice(
        "progressive_resize_from",
        value,
        f"training starts with images of {first} px, which are faster, and uses the full size for the last fifth of the run",
    )


def repeats(index: SplitIndex) -> Choice | None:
    """Choose to repeat the images of rare classes; None if no class is rare."""
    fractions = image_fractions(index)
    rare = [k for k in np.argsort(fractions, kind="stable") if 0 < fractions[k] < RARE_FRACTION]
    if not rare or len(index.categories) < 2:
        return None
    first = f"{index.categories[rare[0]].name!r} is in {100 * fractions[rare[0]]:.1f} % of the images"
    more = f", and {plural(len(rare) - 1, 'other class')} in less than {100 * RARE_FRACTION:g} %" if len(rare) > 1 else ""
    factor = float(np.sqrt(REPEAT_THRESHOLD / fractions[rare[0]]))
    return Choice("repeat_threshold", REPEAT_THRESHOLD, f"{first}{more}: they are shown up to {factor:.1f} times per epoch")


def class_loss(config: RunConfig, model: ModelConfig | None) -> Choice | None:
    """Choose the model's own class loss if the recipe's class loss does not support the model's classification."""
    if model is None or class_loss_fits(config.training.class_loss, model.classification):
        return None
    return Choice(
        "class_loss",
        "model",
        f"{config.training.class_loss} needs focal classification, the model's is {model.classification}",
    )


def flips(names: list[str]) -> Choice | None:
    """Switch off horizontal flips if the class names suggest that mirroring changes the class of an object; otherwise None."""
    sides = [name for name in names if SIDE.search(name)]
    codes = [name for name in names if CODE.fullmatch(name)]
    asymmetric = sides or (codes if len(codes) >= MANY_CODES * len(names) else [])
    if not asymmetric:
        return None
    return Choice("hflip", 0.0, f"mirroring would change {shortened_list(asymmetric)}, judging by the class names")


def turns(train: SplitIndex) -> list[Choice]:
    """Switch vertical flips and transposition on where turned images look like the original ones, else off.

    The result has no choice for a setting if there are too few images or objects to decide.
    """
    profiles = edge_profiles(train)
    made = []
    for turn, how in TURNED.items():
        sure = orientation_score(profiles, turn)
        if sure is not None:
            turned = sure < UPRIGHT
            seen = f"images {'look alike' if turned else 'look different'} {how}"
            limit = f"a classifier tells them apart in {sure:.0%} of the cases, {'below' if turned else 'not below'} the limit"
            made.append(Choice(turn, 0.5 if turned else 0.0, f"{seen} ({limit} of {UPRIGHT:.0%})"))
    return made


def turn(context: Context, setting: str) -> Choice | None:
    """Choose `vflip` or `transpose` from the images; None if there are too few of them, or if horizontal flips are off."""
    return context.sources.turns.get(setting) if context.config.training.hflip else None


def batch(config: RunConfig, free: int) -> Choice | None:
    """Halve the batch size until a step fits into half of the free memory; None if it already fits.

    Parameters
    ----------
    config : settings of the run
    free : free memory, bytes
    """
    longest = preprocessing_for(model_of(config), config.imgsz).longest
    room, size = MEMORY_FRACTION * free, config.training.batch
    if size * config.imgsz * longest * MAX_BYTES_PER_PIXEL <= room:
        return None
    each = activation_bytes(model_of(config), config.imgsz, longest)
    while size > 1 and size * each > room:
        size //= 2
    if size == config.training.batch:
        return None
    return Choice("batch", size, f"training needs up to {each / 2**30:.1f} GiB per image, and {free / 2**30:.1f} GiB are free")
