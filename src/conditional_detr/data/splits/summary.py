"""Count what a split contains and what is left out. Training, evaluation and the doctor all print these counts."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from conditional_detr.errors import shortened_list

NAMED = 10  # classes


class Summary(NamedTuple):
    """Counts of a split.

    Attributes
    ----------
    images, boxes : number of usable images and boxes
    without_boxes : number of these images without a usable box
    left_out : number of boxes that are not used, by reason
    objects : number of objects of each class
    """

    images: int
    boxes: int
    without_boxes: int
    left_out: Mapping[str, int]
    objects: Mapping[str, int]

    @property
    def unused(self) -> list[str]:
        """Names of the classes without objects."""
        return [name for name, count in self.objects.items() if not count]

    @property
    def reasons(self) -> str:
        """The boxes that are left out, in words; "" if there are none."""
        return ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())

    def __str__(self) -> str:
        parts = [f"{self.images} images, {self.boxes} boxes, {len(self.objects)} classes"]
        if self.left_out:
            parts.append(f"{sum(self.left_out.values())} boxes left out ({self.reasons})")
        if self.without_boxes:
            parts.append(f"{self.without_boxes} images without boxes")
        if self.unused:
            parts.append(f"{len(self.unused)} classes without objects ({shortened_list(self.unused, NAMED)})")
        return "; ".join(parts)


def summary_of(
    images: int, owners: Iterable[int], labels: Iterable[int], names: list[str], left_out: Mapping[str, int]
) -> Summary:
    """Count the boxes of a split, given for each box the position of its image and its class index."""
    owners, labels = np.array([*owners], dtype=np.int64), np.array([*labels], dtype=np.int64)
    counts = np.bincount(labels, minlength=len(names)).tolist()
    return Summary(images, len(labels), images - len(np.unique(owners)), left_out, dict(zip(names, counts, strict=True)))
