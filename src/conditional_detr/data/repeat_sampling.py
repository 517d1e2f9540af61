"""Repeat-factor sampling: images of rare classes are shown more often in training (LVIS, Gupta et al., 2019)."""

import numpy as np
import torch
from torch import Generator

from conditional_detr.data.index import SplitIndex


def image_fractions(index: SplitIndex) -> np.ndarray:
    """Fraction of the images that contain each class, [K], among those in which it is labelled."""
    owners = np.repeat(np.arange(len(index)), np.diff(index.first))
    pairs = np.unique(np.stack([owners, index.labels], 1), axis=0)
    labelled = len(index) if index.labelled is None else index.labelled.sum(0)
    return np.asarray(np.bincount(pairs[:, 1], minlength=len(index.categories)) / np.maximum(1, labelled))


def repeat_factors(index: SplitIndex, threshold: float) -> np.ndarray:
    """How often each image is shown in an epoch, on average: [I], at least 1.

    A class in a fraction f of the images has the factor max(1, sqrt(threshold / f)). An image has the factor of its rarest
    class.

    Parameters
    ----------
    threshold : fraction of images, in [0, 1], below which a class counts as rare
    """
    fractions = image_fractions(index)
    of_class = np.sqrt(np.maximum(1, threshold / np.maximum(fractions, 1e-12)))
    factors = np.ones(len(index))
    np.maximum.at(factors, np.repeat(np.arange(len(index)), np.diff(index.first)), of_class[index.labels])
    return factors


def drawn(factors: np.ndarray, generator: Generator) -> list[int]:
    """Draw the images of an epoch, in a random order. Each is there as often as its factor, rounded up or down at random.

    Their number is always the sum of the factors, rounded: one random offset is used for all (systematic sampling).
    """
    count = epoch_size(factors)
    ends = np.cumsum(factors) * (count / factors.sum())
    ends[-1] = count
    offset = torch.rand(1, generator=generator, dtype=torch.float64).item()
    times = np.diff(np.floor(ends + offset), prepend=np.floor(offset)).astype(np.int64)
    images = np.repeat(np.arange(len(factors)), times)
    return [int(i) for i in images[torch.randperm(count, generator=generator).numpy()]]


def epoch_size(factors: np.ndarray) -> int:
    """Number of images in an epoch."""
    return max(1, round(float(factors.sum())))
