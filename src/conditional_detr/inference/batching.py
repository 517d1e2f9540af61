"""Run a model on many images, in batches. Prediction and evaluation both use this module."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np

from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.device.threads import usable_cores
from conditional_detr.errors import CheckpointError, ConfigError, ImageError
from conditional_detr.images.decoding import ImageInput, decode_array

TOP_K = 100  # detections per image
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
    """An image ready for the model: its position in the input, the decoded image, and the preprocessed image."""

    position: int
    rgb: np.ndarray
    image: Any


def stages_of(model: Model) -> Any:
    """Return the module for preparation and postprocessing: with NumPy for exports, with PyTorch for other models."""
    return import_module(f"conditional_detr.inference.{'array' if model.takes_arrays else 'tensor'}_stages")


def detect(
    model: Model,
    images: Iterable[ImageInput],
    batch: int = 8,
    on_unreadable: Callable[[int, ImageError], None] | None = None,
) -> Iterator[tuple[int, np.ndarray, dict[str, np.ndarray]]]:
    """Detect objects in many images, on the model's device.

    A batch contains only images of the same size after preprocessing. No image is padded to the size of another one, so its
    result does not depend on the other images of the batch.

    Parameters
    ----------
    images : images, which are decoded in background threads ahead of the model
    batch : largest batch size
    on_unreadable : called with position and error for each image that cannot be read; None = the error is raised

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
    waiting: dict[tuple[int, int], list[PreparedImage]] = {}
    for position, prepared in _prepared(model, images, ahead=batch):
        if isinstance(prepared, ImageError):
            if on_unreadable is None:
                raise prepared
            on_unreadable(position, prepared)
            continue
        group = waiting.setdefault((prepared.image.shape[-2], prepared.image.shape[-1]), [])
        group.append(prepared)
        if len(group) < batch and sum(map(len, waiting.values())) >= WAITING_BATCHES * batch:
            group = max(waiting.values(), key=len)
        elif len(group) < batch:
            continue
        yield from run_batch(model, group)
        group.clear()
    for group in waiting.values():
        if group:
            yield from run_batch(model, group)


def _prepared(model: Model, images: Iterable[ImageInput], ahead: int) -> Iterator[tuple[int, PreparedImage | ImageError]]:
    """Decode and preprocess images in background threads while the model runs. Yields them in order, with their positions."""
    stages = stages_of(model)

    def prepare(position: int, image: ImageInput) -> tuple[int, PreparedImage | ImageError]:
        try:
            rgb = decode_array(image)
        except ImageError as error:
            return position, error
        return position, PreparedImage(position, rgb, stages.prepare(rgb, model.preprocessor))

    if isinstance(images, Sequence) and len(images) == 1:
        yield prepare(0, images[0])
        return
    coming: deque[Future[tuple[int, PreparedImage | ImageError]]] = deque()
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


def run_batch(model: Model, group: Sequence[PreparedImage]) -> list[tuple[int, np.ndarray, dict[str, np.ndarray]]]:
    """Run the model on a batch of prepared images of one size. Returns what `detect` yields."""
    sizes_hw = np.array([prepared.rgb.shape[:2] for prepared in group])
    stages = stages_of(model)
    with stages.inference_mode():
        output = model(*stages.inputs_of(model, [prepared.image for prepared in group]), **stages.OPTIONS)
        results = stages.records_of(model, output, sizes_hw, TOP_K)
    if results is None:
        raise CheckpointError("the model's scores are NaN or infinite: its weights are damaged, or its training diverged")
    return [(prepared.position, prepared.rgb, result) for prepared, result in zip(group, results, strict=True)]
