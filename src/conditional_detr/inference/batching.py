"""Run a model on many images, in batches. Prediction and evaluation both use this module."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np

from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.device.threads import usable_cores
from conditional_detr.errors import CheckpointError, ConfigError, ImageError
from conditional_detr.images.decoding import ImageInput, decode_array
from conditional_detr.inference.tiles import Tiling, Window, merged, tiling_of, windows

TOP_K = 100  # detections per image, or per window of an image that is cut into tiles
WAITING_BATCHES = 2  # maximum number of prepared images waiting for others of their size, in batches
DECODERS = 4  # maximum number of decoding threads; a large JPEG takes longer to decode than a small model to run


class Model(Protocol):
    """Interface of a detector: a `DetectionModel`, or an exported model run by an engine."""

    config: ModelConfig
    preprocessor: PreprocessorConfig
    class_names: list[str]
    category_ids: list[int]
    thresholds: list[float] | None
    nms_iou: float | None
    takes_arrays: bool  # whether inputs are NumPy arrays; otherwise tensors

    @property
    def device(self) -> Any: ...

    @property
    def summary(self) -> str: ...

    def __call__(self, *inputs: Any, **options: Any) -> Any: ...


class PreparedImage(NamedTuple):
    """An image, or a window of one, ready for the model.

    Attributes
    ----------
    position : position of the image in the input
    rgb : the decoded image, uint8 [H, W, 3]
    window : the part of the image that is prepared
    image : the preprocessed window
    """

    position: int
    rgb: np.ndarray
    window: Window
    image: Any


def stages_of(model: Model) -> Any:
    """Return the module for preparation and postprocessing: with NumPy for exports, with PyTorch for other models."""
    return import_module(f"conditional_detr.inference.{'array' if model.takes_arrays else 'tensor'}_stages")


def detect(
    model: Model,
    images: Iterable[ImageInput],
    batch: int = 8,
    on_unreadable: Callable[[int, ImageError], None] | None = None,
    tiling: Tiling | None = None,
) -> Iterator[tuple[int, np.ndarray, dict[str, np.ndarray]]]:
    """Detect objects in many images, on the model's device.

    A batch contains only images of the same size after preprocessing. No image is padded to the size of another one, so its
    result does not depend on the other images of the batch.

    Parameters
    ----------
    images : images, which are decoded in background threads ahead of the model
    batch : largest batch size
    on_unreadable : called with position and error for each image that cannot be read; None = the error is raised
    tiling : how large images are cut; None = as the model's preprocessing says

    Yields
    ------
    position in the input, the image uint8 [H, W, 3], and its detections as arrays (see `postprocess`). The order may differ
    from that of the input

    Raises
    ------
    ConfigError : the batch size is below 1
    ImageError : an image cannot be read, and there is no `on_unreadable`
    CheckpointError : scores are NaN or infinite, because the weights are damaged
    """
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, not {batch}")
    tiling = tiling_of(model.preprocessor) if tiling is None else tiling
    found: dict[int, dict[Window, dict[str, np.ndarray]]] = {}  # by position, of images whose windows are not all done
    for group in _batches(_windows(_prepared(model, images, tiling, ahead=batch), on_unreadable), batch):
        for prepared, result in zip(group, run_batch(model, group), strict=True):
            parts = found.setdefault(prepared.position, {})
            parts[prepared.window] = result
            of_image = windows(prepared.rgb.shape[0], prepared.rgb.shape[1], tiling)
            if len(parts) == len(of_image):
                del found[prepared.position]
                yield prepared.position, prepared.rgb, merged([parts[window] for window in of_image], of_image, tiling)


def _batches(images: Iterable[PreparedImage], batch: int) -> Iterator[list[PreparedImage]]:
    """Collect images of the same size. A group that is not full comes when too many images wait, or at the end."""
    waiting: dict[tuple[int, int], list[PreparedImage]] = {}
    for prepared in images:
        size = prepared.image.shape[-2], prepared.image.shape[-1]
        waiting.setdefault(size, []).append(prepared)
        if len(waiting[size]) == batch:
            yield waiting.pop(size)
        elif sum(map(len, waiting.values())) >= WAITING_BATCHES * batch:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


def _windows(
    images: Iterable[tuple[int, Iterator[PreparedImage] | ImageError]], on_unreadable: Callable[[int, ImageError], None] | None
) -> Iterator[PreparedImage]:
    """Yield the windows of all images that could be read."""
    for position, prepared in images:
        if not isinstance(prepared, ImageError):
            yield from prepared
        elif on_unreadable is None:
            raise prepared
        else:
            on_unreadable(position, prepared)


def _prepared(
    model: Model, images: Iterable[ImageInput], tiling: Tiling, ahead: int
) -> Iterator[tuple[int, Iterator[PreparedImage] | ImageError]]:
    """Decode and preprocess images in background threads while the model runs.

    Yields their windows in order, with the position of the image.
    """
    stages = stages_of(model)

    def prepare(position: int, image: ImageInput) -> tuple[int, Iterator[PreparedImage] | ImageError]:
        try:
            rgb = decode_array(image)
        except ImageError as error:
            return position, error

        def prepared(window: Window) -> PreparedImage:
            return PreparedImage(position, rgb, window, stages.prepare(window.of(rgb), model.preprocessor))

        first, *others = windows(rgb.shape[0], rgb.shape[1], tiling)
        return position, chain([prepared(first)], map(prepared, others))  # the others when they are needed, to save memory

    if isinstance(images, Sequence) and len(images) == 1:
        yield prepare(0, images[0])
        return
    coming: deque[Future[tuple[int, Iterator[PreparedImage] | ImageError]]] = deque()
    pool = ThreadPoolExecutor(max_workers=min(DECODERS, usable_cores()))
    try:
        for position, image in enumerate(images):
            coming.append(pool.submit(prepare, position, image))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def run_batch(model: Model, group: Sequence[PreparedImage]) -> list[dict[str, np.ndarray]]:
    """Run the model on a batch of prepared images of one size. Returns the detections of each, in px of its window."""
    sizes_hw = np.array([prepared.window.size_hw for prepared in group])
    stages = stages_of(model)
    with stages.inference_mode():
        output = model(*stages.inputs_of(model, [prepared.image for prepared in group]), **stages.OPTIONS)
        results: list[dict[str, np.ndarray]] | None = stages.records_of(model, output, sizes_hw, TOP_K)
    if results is None:
        raise CheckpointError("the model's scores are NaN or infinite: its weights are damaged, or its training diverged")
    return results
