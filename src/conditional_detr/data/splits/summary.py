"""Counts of a split: images, boxes, classes and boxes that are left out. Training, evaluation and `doctor` print them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from conditional_detr.errors import plural, shortened_list

MAX_NAMES = 10  # number of classes without objects that are named


class Summary(NamedTuple):
    """Counts of a split.

    Attributes
    ----------
    images, boxes : number of usable images and boxes
    without_boxes : number of these images without a usable box
    left_out : number of boxes that are not used, by reason
    objects : number of objects of each class
    partly_labelled : number of images in which only some of the classes are labelled
    """

    images: int
    boxes: int
    without_boxes: int
    left_out: Mapping[str, int]
    objects: Mapping[str, int]
    partly_labelled: int = 0

    @property
    def unused(self) -> list[str]:
        """Names of the classes without objects."""
        return [name for name, count in self.objects.items() if not count]

    @property
    def reasons(self) -> str:
        """The boxes that are left out, by reason, as text; "" if there are none."""
        return ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())

    def __str__(self) -> str:
        parts = [f"{plural(self.images, 'image')}, {plural(self.boxes, 'box')}, {plural(len(self.objects), 'class')}"]
        if self.left_out:
            parts.append(f"{plural(sum(self.left_out.values()), 'box')} left out ({self.reasons})")
        if self.partly_labelled:
            parts.append(f"{plural(self.partly_labelled, 'image')} with labels of only some classes")
        if self.without_boxes:
            parts.append(f"{plural(self.without_boxes, 'image')} without boxes")
        if self.unused:
            names = shortened_list(self.unused, MAX_NAMES)
            parts.append(f"{plural(len(self.unused), 'class')} without objects ({names})")
        return "; ".join(parts)


def summary_of(
    images: int,
    owners: Iterable[int],
    labels: Iterable[int],
    names: list[str],
    left_out: Mapping[str, int],
    partly_labelled: int = 0,
) -> Summary:
    """Count the boxes of a split, given for each box the position of its image and its class index."""
    owners, labels = np.array([*owners], dtype=np.int64), np.array([*labels], dtype=np.int64)
    counts = np.bincount(labels, minlength=len(names)).tolist()
    without_boxes, objects = images - len(np.unique(owners)), dict(zip(names, counts, strict=True))
    return Summary(images, len(labels), without_boxes, left_out, objects, partly_labelled)
