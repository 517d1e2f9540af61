"""Settings that are chosen from the data unless the user sets them. Each choice has a reason."""

import math
from collections.abc import Set

import numpy as np

from conditional_detr.config.messages import updated
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.data.index import SplitIndex
from conditional_detr.data.repeat_sampling import image_fractions
from conditional_detr.device.choose import choose_device
from conditional_detr.errors import plural
from conditional_detr.factory.build import preprocessing_for
from conditional_detr.training.objective.objective import class_loss_fits
from conditional_detr.training.setup.architecture import (
    as_source_has,
    beginning,
    box_refinement,
    cross_attention,
    neck,
    pixel_aligned_positions,
    reference_points,
)
from conditional_detr.training.setup.augmentations import flips, turn
from conditional_detr.training.setup.choices import Choice, Context, Rule, Sources, model_of, of_new_model
from conditional_detr.training.setup.memory_estimate import activation_bytes, free_bytes

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


# Setting, named as in --set → the rule that chooses its value. A rule returns None to leave the setting unchanged.
# Rules run in this order and see the choices of earlier rules. `--resume` keeps the values that the run started with.
RULES: dict[str, Rule] = {
    "hflip": lambda context: flips(context.sources.class_names),
    "vflip": lambda context: turned(context, "vflip"),
    "transpose": lambda context: turned(context, "transpose"),
    "model.reference_points": of_new_model(lambda context: as_source_has(context, "reference_points", reference_points)),
    "model.box_refinement": of_new_model(lambda context: as_source_has(context, "box_refinement", box_refinement)),
    "model.cross_attention": of_new_model(lambda context: as_source_has(context, "cross_attention", cross_attention)),
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


def turned(context: Context, setting: str) -> Choice | None:
    """Choose `vflip` or `transpose` from the images; None if there are too few of them, or if horizontal flips are off."""
    return turn(context.sources.edges, setting) if context.config.training.hflip else None


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
