"""Rules for the size of the images: as large as small objects need, as small as the time asks for."""

import math

import numpy as np

from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.data.index import SplitIndex
from conditional_detr.training.optim.progressive_resize import mean_cost
from conditional_detr.training.setup.choices import Choice, Context, model_of
from conditional_detr.training.setup.step_speed import StepSpeed

SMALL = 0.1  # quantile of the object sizes, each class weighted equally, that the image size is chosen for
FEW = 10  # a class with fewer objects than this has a lower weight
CELLS = 1.5  # width of an object of that size in cells of the feature map
DEFAULT_IMGSZ, MAX_IMGSZ, MAX_ENLARGEMENT = 320, 640, 2.0  # px, px, and a multiple of the images' own size
TOO_SMALL = 0.75  # cells: if small objects are narrower even in the largest images, images are cut into tiles
TILE_CELLS = 2.5  # width of such objects in a tile, in cells
MAX_TILES = 40  # about as many tiles of an image at most, on average
MULTIPLE = 32  # the image size is a multiple of this, px
SMALLEST_AT_FIRST = 160  # minimum shorter side at the start of progressive resizing, px
ENOUGH = 2000  # training images, counted once per epoch, that a run should process before larger images are worth their time
LEAST_FRACTION = 0.6  # the time never makes images smaller than this fraction of the size that the objects need
LEAST_SIZE = 160  # nor smaller than this, px
LEARNING_FRACTION = 0.85  # estimated fraction of `minutes` that is spent on training steps


def image_size(context: Context) -> Choice:
    """Choose the shorter side, px, from the sizes of the objects and, in a run with `minutes`, from the speed of a step."""
    index, config = context.sources.index, context.config
    size, reason = DEFAULT_IMGSZ, f"small objects in tiles of {config.training.tile} px are then about {TILE_CELLS} cells wide"
    if not config.training.tile:
        size, reason = wanted_size(index, model_of(config).finest_stride)
    sizes = [s for s in range(size, 0, -MULTIPLE) if s >= max(LEAST_SIZE, LEAST_FRACTION * size)]
    if not config.training.minutes or len(sizes) < 2:
        return Choice("imgsz", size, reason)
    speed = context.sources.speed(config, model_of(config), (LEAST_SIZE, size), round(len(index.labels) / len(index)))
    aspect = float(np.median(index.sizes_hw.max(1) / index.sizes_hw.min(1)))
    images = {s: images_in_time(s, aspect, speed, config) for s in sizes}
    chosen = next((s for s in sizes if images[s] >= ENOUGH), sizes[-1])
    time, left = f"{config.training.minutes:g} minutes", epochs(images[size], index)
    if chosen == size:
        return Choice("imgsz", size, f"{reason}; {time} are enough for {left}")
    now = epochs(images[chosen], index)
    reason = f"small objects ask for {size} px, but {time} leave {left} at that size, and {now} at this one"
    return Choice("imgsz", chosen, reason)


def tile(context: Context) -> Choice | None:
    """Choose tiles if small objects would be too small even in the largest images; None otherwise."""
    index, stride = context.sources.index, model_of(context.config).finest_stride
    native, small = float(np.median(index.sizes_hw.min(1))), small_side(index, relative=False)
    largest = min(MAX_IMGSZ, MAX_ENLARGEMENT * native)
    cells = largest * small_side(index, relative=True) / stride
    if cells >= TOO_SMALL:
        return None
    wanted = DEFAULT_IMGSZ * small / (TILE_CELLS * stride)
    side = max(wanted, DEFAULT_IMGSZ / MAX_ENLARGEMENT, math.sqrt(np.prod(index.sizes_hw, axis=1).mean() / MAX_TILES))
    value = round(side / MULTIPLE) * MULTIPLE
    if value >= native:
        return None
    reason = (
        f"small objects (10th percentile, {small:.0f} px) would be {cells:.1f} cells of the feature map wide in whole images"
    )
    return Choice("tile", value, reason)


def images_in_time(size: int, aspect: float, speed: StepSpeed, config: RunConfig) -> float:
    """Estimated number of images that a run processes. Their shorter side is `size` px, the longer one `aspect` times that."""
    recipe = config.training.model_copy(update={"progressive_resize_from": first_fraction(size, config)})
    return LEARNING_FRACTION * 60 * recipe.minutes / speed.at(size**2 * aspect * mean_cost(0.0, 1.0, recipe))


def epochs(images: float, index: SplitIndex) -> str:
    """An estimated number of epochs."""
    number = images / len(index)
    return f"about {number:.{0 if number >= 3 else 1}f} epochs"


def wanted_size(train: SplitIndex, stride: int) -> tuple[int, str]:
    """The shorter side, px, and why: small objects shall be about 1.5 cells of the feature map wide.

    Each class has the same weight, as in AP. The result is at least the images' own size or 320 px, whichever is less,
    because objects have details that the sizes of their boxes do not show. It is at most 640 px or twice the images' own
    size, whichever is less.
    """
    small, native = small_side(train, relative=True), float(np.median(train.sizes_hw.min(1)))
    wanted = CELLS * stride / small
    low, high = min(DEFAULT_IMGSZ, native), min(MAX_IMGSZ, MAX_ENLARGEMENT * native)
    value = max(MULTIPLE, round(min(max(wanted, low), high) / MULTIPLE) * MULTIPLE)
    reason = (
        f"small objects (10th percentile) are then {small * value:.0f} px wide; the aim is {CELLS * stride:g} px, "
        f"{CELLS:g} cells of the feature map, rounded to a multiple of {MULTIPLE} px"
    )
    return value, reason


def small_side(train: SplitIndex, relative: bool) -> float:
    """Side of small objects: the 10th percentile, px or relative to the shorter side of their image. Classes count alike."""
    owners = np.repeat(np.arange(len(train)), np.diff(train.first))
    sides = np.sqrt(np.prod(train.boxes_xyxy[:, 2:] - train.boxes_xyxy[:, :2], axis=1))
    weights = 1 / np.bincount(train.labels).clip(min=FEW)[train.labels]
    units = train.sizes_hw.min(1)[owners] if relative else 1.0
    return float(np.quantile(sides / units, SMALL, weights=weights, method="inverted_cdf"))


def growth(config: RunConfig, model: ModelConfig | None) -> Choice:
    """Choose the image size at the start of progressive resizing, at least 160 px."""
    if model is None or not model.pixel_aligned_positions:
        return Choice(
            "progressive_resize_from", 1.0, "without pixel_aligned_positions, training on smaller images gives inexact boxes"
        )
    value = first_fraction(config.imgsz, config)
    if value == 1:
        return Choice("progressive_resize_from", value, "images are small enough to train at full size from the start")
    first = round(value * config.imgsz)
    return Choice(
        "progressive_resize_from",
        value,
        f"training starts with images of {first} px, which are faster, and uses the full size for the last fifth of the run",
    )


def first_fraction(size: int, config: RunConfig) -> float:
    """Size of the first images, as a fraction of the full size."""
    return min(1.0, max(config.training.progressive_resize_from, SMALLEST_AT_FIRST / size))
