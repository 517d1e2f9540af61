"""Resize, normalise and pad NumPy arrays, for exported models.

The results are bitwise equal to those of `preprocessing`, because images are resized with PyTorch's integer weights.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.images.sizes import input_hw, padded_hw

WEIGHT_LIMIT, MAX_BITS = 2**15, 22  # PyTorch stores weights as 16-bit integers, with as many fractional bits as fit
EXACT_BITS = 16  # with at most this many fractional bits, float32 sums are exact, and faster than int32


class Filter(NamedTuple):
    """A triangular filter that resizes one axis.

    Attributes
    ----------
    first, inputs : for each output, index of the first input and number of inputs
    weights : integers [outputs, most inputs]; divided by 2 ** bits they sum to 1
    bits : number of fractional bits
    """

    first: np.ndarray
    inputs: np.ndarray
    weights: np.ndarray
    bits: int


def prepare_array(rgb: np.ndarray, config: PreprocessorConfig) -> np.ndarray:
    """Resize and normalise an image: uint8 [H, W, 3] → float32 [3, h, w]."""
    resized = resize_array(rgb, input_hw((rgb.shape[0], rgb.shape[1]), config)).transpose(2, 0, 1)
    mean, std = (np.array(v, dtype=np.float32).reshape(3, 1, 1) for v in (config.mean, config.std))
    return (resized.astype(np.float32, order="C") / np.float32(255) - mean) / std


def collate_arrays(images: Sequence[np.ndarray], config: PreprocessorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Batch normalised images: returns images [B, 3, H, W] and padding mask bool [B, H, W] (True = padding).

    Images are padded with zeros at the bottom and the right.
    """
    height, width = padded_hw((max(image.shape[1] for image in images), max(image.shape[2] for image in images)), config)
    batch = np.zeros((len(images), 3, height, width), dtype=np.float32)
    is_padding = np.ones((len(images), height, width), dtype=bool)
    for i, image in enumerate(images):
        batch[i, :, : image.shape[1], : image.shape[2]] = image
        is_padding[i, : image.shape[1], : image.shape[2]] = False
    return batch, is_padding


def resize_array(rgb: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize an image bilinearly with antialiasing: uint8 [H, W, 3] → uint8 [h, w, 3]. The width is resized first."""
    height, width = size_hw
    if rgb.shape[1] != width:
        columns_first = resize_axis(np.ascontiguousarray(rgb.transpose(1, 0, 2)).reshape(rgb.shape[1], -1), width)
        rgb = columns_first.reshape(width, rgb.shape[0], 3).transpose(1, 0, 2)
    if rgb.shape[0] != height:
        rgb = resize_axis(np.ascontiguousarray(rgb).reshape(rgb.shape[0], -1), height).reshape(height, width, 3)
    return rgb


def resize_axis(values: np.ndarray, size: int) -> np.ndarray:
    """Resize the first axis: uint8 [n, m] → uint8 [size, m]."""
    first, inputs, weights, bits = filter_of(len(values), size)
    kind: Any = np.float32 if bits <= EXACT_BITS else np.int32
    values, weights = values.astype(kind), weights.astype(kind)
    sums: Any = np.empty((size, values.shape[1]), dtype=kind)
    for i, (start, count) in enumerate(zip(first.tolist(), inputs.tolist(), strict=True)):
        np.einsum("k,km->m", weights[i, :count], values[start : start + count], out=sums[i])
    sums += kind(1 << (bits - 1))  # round to the nearest integer
    if kind is np.float32:
        sums *= np.float32(0.5**bits)
    else:
        sums >>= bits
    resized: np.ndarray = np.minimum(sums, 255, out=sums).astype(np.uint8)
    return resized


def filter_of(length: int, size: int) -> Filter:
    """Return the filter that resizes an axis from `length` to `size`. It is wider if `size` is smaller (antialiasing)."""
    scale = length / size
    support = max(scale, 1.0)
    centre = scale * (np.arange(size) + 0.5)
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    inputs = np.minimum((centre + support + 0.5).astype(np.int64), length) - first
    place = np.arange(2 * math.ceil(support) + 1)
    weights = np.maximum(1 - np.abs((place + first[:, None] - centre[:, None] + 0.5) * (1 / support)), 0)
    weights[place >= inputs[:, None]] = 0
    weights /= weights.sum(1, keepdims=True)
    largest = weights.max()
    bits = next((b for b in range(MAX_BITS) if int(0.5 + largest * 2 ** (b + 1)) >= WEIGHT_LIMIT), MAX_BITS)
    return Filter(first, inputs, np.floor(weights * 2**bits + 0.5), bits)
