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
from conditional_detr.training.setup.image_size import growth, image_size, tile
from conditional_detr.training.setup.memory_estimate import activation_bytes, free_bytes

MIN_QUERIES, MAX_QUERIES = 20, 1000
USUAL = 0.98  # fraction of the training images that have a usual number of objects
HEADROOM, MARGIN = 2.0, 1.1  # queries per object of a usual image, and of the fullest one
MAX_TRAINING_QUERIES = 400  # of all query groups
RARE_FRACTION = 0.05  # a class in a smaller fraction of the training images is rare
REPEAT_THRESHOLD = 0.1  # of repeat-factor sampling, if a class is rare
MEMORY_FRACTION = 0.5  # fraction of the free memory that activations stored for the backward pass may take
MAX_BYTES_PER_PIXEL = 16_384  # upper limit of the bytes per pixel that any of our models stores for the backward pass


# Setting, named as in --set → the rule that chooses its value. A rule returns None to leave the setting unchanged.
# Rules run in this order and see the choices of earlier rules. `--resume` keeps the values that the run started with.
RULES: dict[str, Rule] = {
    "hflip": lambda context: flips(context.sources.class_names),
    "vflip": lambda context: turned(context, "vflip"),
    "transpose": lambda context: turned(context, "transpose"),
    "model.box_refinement": of_new_model(lambda context: as_source_has(context, "box_refinement", box_refinement)),
    "model.cross_attention": of_new_model(lambda context: as_source_has(context, "cross_attention", cross_attention)),
    "model.reference_points": of_new_model(lambda context: as_source_has(context, "reference_points", reference_points)),
    "model.neck": of_new_model(lambda context: as_source_has(context, "neck", neck)),
    "model.pixel_aligned_positions": of_new_model(
        lambda context: as_source_has(context, "pixel_aligned_positions", pixel_aligned_positions)
    ),
    "model.num_queries": of_new_model(lambda context: queries(context.sources.index)),
    "query_groups": of_new_model(lambda context: groups(context.config)),
    "tile": of_new_model(tile),
    "imgsz": of_new_model(image_size),
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
    """Choose twice as many queries as usual images have objects, and some more than the fullest image has."""
    counts = np.diff(train.first)
    most, usual = int(counts.max()), int(np.quantile(counts, USUAL, method="higher"))
    wanted = math.ceil(max(HEADROOM * usual, MARGIN * most) / 10) * 10
    value = min(max(MIN_QUERIES, wanted), max(MAX_QUERIES, most))
    fullest = f"a training image has up to {most} objects"
    return Choice("model.num_queries", value, fullest if usual == most else f"{fullest}, {USUAL:.0%} of them at most {usual}")


def groups(config: RunConfig) -> Choice | None:
    """Choose fewer query groups if a group is large; None if the recipe's number is not too many."""
    queries, wanted = model_of(config).num_queries, config.training.query_groups
    value = max(1, min(wanted, MAX_TRAINING_QUERIES // queries))
    reason = f"more groups of {queries} queries would make a step too slow"
    return None if value == wanted else Choice("query_groups", value, reason)


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
