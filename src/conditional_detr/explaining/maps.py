"""Cross-attention maps of each detection, split into the spatial and the content part."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from conditional_detr.config.parts import unused_fields
from conditional_detr.device.choose import choose_device
from conditional_detr.factory.build import DetectionModel
from conditional_detr.images.decoding import ImageInput, decode
from conditional_detr.images.postprocessing import best_pairs, boxes_in_pixels
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.inference.batching import TOP_K
from conditional_detr.inference.detector import check_conf
from conditional_detr.model.decoder import Decoder
from conditional_detr.model.memory import Memory
from conditional_detr.model.queries import Queries
from conditional_detr.weights.discovery import load_detector


@dataclass(frozen=True)
class Explanation:
    """Cross-attention of one detection. Every map sums to 1 over its cells.

    With several levels, the maps have the cells of the finest level. The weight of a coarser cell is shared among the finest
    cells that it covers.

    Attributes
    ----------
    spatial : float32 [L, H, h, w], softmax(p_q·p_k) of each layer and head, from the spatial parts of query and key; None for
        deformable attention, which compares no keys
    content : float32 [L, H, h, w], softmax(c_q·c_k) of each layer and head, from their content parts; None as for `spatial`
    combined : float32 [L, H, h, w], softmax of the sum of both: the attention that the model uses. For deformable attention,
        the weights of its samples, each distributed over the four nearest cells; samples outside the map are lost
    box : float32 [4], xyxy in pixels of the image
    reference_point : float32 [2], (x, y) in pixels of the image, of the first layer; None for a model without reference points
        (DETR)
    score, class_id, class_name : score and class of the detection
    query : index of the query that made the detection
    cell_size : (width, height) of a map cell in pixels of the image; the first cell starts at the upper left corner
    places : float32 [L, H, P, 2], (x, y) of the samples of deformable attention, in pixels of the image; otherwise None
    weights : float32 [L, H, P], their weights, which sum to 1 over P; otherwise None
    """

    spatial: np.ndarray | None
    content: np.ndarray | None
    combined: np.ndarray
    box: np.ndarray
    reference_point: np.ndarray | None
    score: float
    class_id: int
    class_name: str
    query: int
    cell_size: tuple[float, float]
    places: np.ndarray | None = None
    weights: np.ndarray | None = None


@torch.inference_mode()
def explain(
    source: str | Path | DetectionModel, image: ImageInput, conf: float = 0.3, device: str = "auto"
) -> list[Explanation]:
    """Compute the cross-attention maps of every detection in an image.

    Both parts are divided by the same √width as their sum. So the product of spatial and content, normalised, is combined. With
    several levels this holds for the cells of each level, not for the maps.

    Deformable DETR compares no keys. Its explanation has the places that each head samples, and their weights.

    In the first layer of Conditional DETR the content also includes positions, because nothing is decoded yet. DETR adds the
    content and the spatial embedding before the dot product. For DETR the maps therefore compare one query, the sum of both,
    with the content part and with the spatial part of the key.

    Source: Conditional DETR, figure 2 and section 3.3.

    Parameters
    ----------
    source : any model source, or a model, which is moved to the device and set to eval mode
    image : a path, a PIL image or a uint8 RGB array [H, W, 3]
    conf : lowest score of a detection, in [0, 1]
    device : "auto", "cpu", "cuda", "cuda:1", "mps"

    Returns
    -------
    one explanation per detection, highest score first; an empty list without detections

    Raises
    ------
    ImageError : the image cannot be read

    Examples
    --------
    >>> from conditional_detr.factory.create import create_model
    >>> model = create_model("conditional-detr-tiny", num_classes=2, pretrained_backbone=False)
    >>> first = explain(model, np.zeros((64, 96, 3), dtype=np.uint8), conf=0)[0]
    >>> first.combined.shape, round(float(first.combined[0, 0].sum()), 3)
    ((3, 8, 20, 30), 1.0)
    """
    check_conf(conf)
    rgb = decode(image)
    model = load_detector(source)
    return explain_image(model.to(choose_device(device)).eval(), rgb, conf)


@torch.inference_mode()
def explain_image(model: DetectionModel, rgb: Tensor, conf: float) -> list[Explanation]:
    """Like `explain`, for a model in eval mode on its device, and a decoded image uint8 [3, H, W]."""
    where = next(model.parameters()).device
    preprocessor = Preprocessor(model.preprocessor)
    prepared = preprocessor(rgb)
    images, padding_mask = preprocessor.collate([prepared])
    with captured(model) as inputs:
        output = model(images.to(where), None if padding_mask is None else padding_mask.to(where), aux=False)
    pairs = best_pairs(output.pred_logits, TOP_K, model.config.classification)
    kept = pairs.scores[0] >= conf
    if not kept.any():
        return []
    queries = pairs.queries[0][kept]
    maps = maps_of_layers(model.decoder, inputs, queries)

    size_hw = torch.tensor(rgb.shape[-2:])
    boxes = clip_boxes_to_image(boxes_in_pixels(output.pred_boxes[0, queries].cpu(), size_hw), tuple(rgb.shape[-2:])).numpy()
    points = (inputs[0][0].reference[0, queries, :2].cpu() * size_hw.flip(0)).numpy()
    has_points = "reference_points" not in unused_fields(model.config)
    sides = zip(rgb.shape[-2:], prepared.shape[-2:], strict=True)
    height, width = (model.config.finest_stride * original / resized for original, resized in sides)
    if "places" in maps:  # from cells to pixels
        maps["places"] *= np.array([width, height], dtype=np.float32)
    return [
        Explanation(
            spatial=_of(maps, "spatial", i), content=_of(maps, "content", i), combined=maps["combined"][i],
            box=boxes[i], reference_point=points[i] if has_points else None, score=score, class_id=label,
            class_name=model.class_names[label], query=query, cell_size=(width, height), places=_of(maps, "places", i),
            weights=_of(maps, "weights", i),
        )
        for i, (score, label, query) in enumerate(
            zip(pairs.scores[0][kept].tolist(), pairs.labels[0][kept].tolist(), queries.tolist(), strict=True)
        )
    ]  # fmt: skip


def _of(maps: dict[str, np.ndarray], name: str, query: int) -> np.ndarray | None:
    """A kind of map of one query; None if the attention does not have this kind."""
    return maps[name][query] if name in maps else None


@contextmanager
def captured(model: DetectionModel) -> Iterator[list[tuple[Queries, Memory]]]:
    """Context manager that records the inputs of every decoder layer's cross-attention, in order."""
    inputs: list[tuple[Queries, Memory]] = []
    hooks = [
        layer.cross_attention.register_forward_pre_hook(lambda _, given: inputs.append(given))  # type: ignore[union-attr]
        for layer in model.decoder.layers
    ]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def maps_of_layers(decoder: Decoder, inputs: list[tuple[Queries, Memory]], queries: Tensor) -> dict[str, np.ndarray]:
    """What the `explain` methods of cross-attention return for k queries of the first image, [k, L, H, …] each.

    Maps have the shape [k, L, H, h, w].
    """
    attentions: list[Any] = [layer.cross_attention for layer in decoder.layers]
    layers = [attention.explain(*given, queries) for attention, given in zip(attentions, inputs, strict=True)]
    shapes = inputs[0][1].shapes
    stacked = {name: torch.stack([layer[name] for layer in layers], dim=1) for name in layers[0]}
    maps = {name: on_finest_level(x, shapes) for name, x in stacked.items() if name not in ("places", "weights")}
    return {name: x.cpu().numpy() for name, x in (stacked | maps).items()}


def on_finest_level(attention: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Attention to the cells of all levels [..., N] as one map [..., h, w] of the finest level, with the same sum.

    Parameters
    ----------
    attention : weights of the cells of all levels, the finest level first
    shapes : (height, width) of each level
    """
    levels = attention.split([height * width for height, width in shapes], dim=-1)
    summed = levels[0].unflatten(-1, shapes[0])
    for number, (level, shape) in enumerate(zip(levels[1:], shapes[1:], strict=True), start=1):
        (rows, in_row), (columns, in_column) = (covering(*sizes, number) for sizes in zip(shapes[0], shape, strict=True))
        share = level.unflatten(-1, shape) / (in_row[:, None] * in_column).clamp(min=1).to(level)
        summed = summed + share[..., rows[:, None], columns]
    return summed


def covering(finest: int, coarser: int, level: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the cell of a level that covers each finest cell, and how many finest cells each of its cells covers."""
    covers = (torch.arange(finest) // 2**level).clamp(max=coarser - 1)
    return covers, covers.bincount(minlength=coarser)
