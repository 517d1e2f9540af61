"""Pictures through a model: the one way that prediction and evaluation go."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from conditional_detr.errors import CheckpointError, ConfigError, ImageError
from conditional_detr.factory import DetectionModel
from conditional_detr.preprocessing import Picture, Preprocessor, decode, postprocess

TOP_K = 100
WAITING_BATCHES = 2


class Prepared(NamedTuple):
    """A picture on its way: its place in the input, as it was decoded, and the network's input."""

    position: int
    rgb: Tensor
    image: Tensor


def detect(
    model: DetectionModel,
    pictures: Iterable[Picture],
    batch: int = 8,
    on_unreadable: Callable[[int, ImageError], None] | None = None,
) -> Iterator[tuple[int, Tensor, dict[str, Tensor]]]:
    """Detect in many pictures, on the model's device.

    Only pictures of one prepared size share a batch, so none is padded for another's sake and a picture's result does not
    depend on its batch mates.

    Parameters
    ----------
    pictures : are decoded as they are needed
    batch : pictures a batch, at most
    on_unreadable : is told position and error of a picture that cannot be read; without it the error is raised

    Yields
    ------
    position in the input, the picture uint8 [3, H, W], and `postprocess`'s record on the CPU. Not in the input's order

    Raises
    ------
    ConfigError : a batch below 1
    ImageError : see `on_unreadable`
    CheckpointError : scores that are no numbers, from damaged weights
    """
    if batch < 1:
        raise ConfigError(f"batch must be at least 1, not {batch}")
    preprocessor = Preprocessor(model.preprocessor)
    waiting: dict[tuple[int, int], list[Prepared]] = {}
    for position, picture in enumerate(pictures):
        try:
            rgb = decode(picture)
        except ImageError as error:
            if on_unreadable is None:
                raise
            on_unreadable(position, error)
            continue
        image = preprocessor(rgb)
        group = waiting.setdefault((image.shape[-2], image.shape[-1]), [])
        group.append(Prepared(position, rgb, image))
        if len(group) < batch and sum(map(len, waiting.values())) >= WAITING_BATCHES * batch:
            group = max(waiting.values(), key=len)
        elif len(group) < batch:
            continue
        yield from _run(model, preprocessor, group)
        group.clear()
    for group in waiting.values():
        if group:
            yield from _run(model, preprocessor, group)


@torch.inference_mode()
def _run(
    model: DetectionModel, preprocessor: Preprocessor, group: list[Prepared]
) -> list[tuple[int, Tensor, dict[str, Tensor]]]:
    device = next(model.parameters()).device
    images, padding_mask = preprocessor.collate([prepared.image for prepared in group])
    images = images.to(device, memory_format=torch.channels_last)
    output = model(images, None if padding_mask is None else padding_mask.to(device), aux=False)
    if not torch.isfinite(output.pred_logits).all():
        raise CheckpointError("the model's scores are no numbers: its weights are damaged, or its training went astray")
    sizes_hw = torch.tensor([prepared.rgb.shape[-2:] for prepared in group], device=device)
    results = postprocess(output, sizes_hw, TOP_K, model.config.classification)
    return [
        (prepared.position, prepared.rgb, {key: value.cpu() for key, value in result.items()})
        for prepared, result in zip(group, results, strict=True)
    ]
