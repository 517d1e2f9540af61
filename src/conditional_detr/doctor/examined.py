"""A split and what the doctor knows about it."""

from collections import Counter
from typing import NamedTuple

from conditional_detr.data.annotations import mark_of
from conditional_detr.data.clean import Clean
from conditional_detr.data.discovery import SplitSource
from conditional_detr.data.splits.summary import Summary
from conditional_detr.doctor.image_scan import ImageScan


class Examined(NamedTuple):
    """A split and the results of its checks.

    Attributes
    ----------
    source : the split on disk
    clean : its usable images and annotations
    scans : results of scanning the images of `clean`
    skipped : positions in `clean.images` of images that are left out of a copy
    summary : counts of the split, as training prints them
    """

    source: SplitSource
    clean: Clean
    scans: list[ImageScan]
    skipped: set[int]
    summary: Summary

    @property
    def name(self) -> str:
        """Name of the split, as spelled in the data set."""
        return self.source.location.split

    @property
    def labelled(self) -> list[str] | None:
        """Names of the classes that are labelled in a used image at least. None if all classes are in all images."""
        lists = [self.clean.images[i]["labelled"] for i in self.used]
        if all(each is None for each in lists):
            return None
        return [c.name for c in self.clean.categories if any(each is None or c.id in each for each in lists)]

    @property
    def used(self) -> list[int]:
        """Positions of the images that are not left out."""
        return [i for i in range(len(self.clean.images)) if i not in self.skipped]


def objects_by_class(split: Examined) -> Counter[str]:
    """Number of objects of each class, in usable images."""
    name_of = {category.id: category.name for category in split.clean.categories}
    rows = (row for row in split.clean.annotations if row["image"] not in split.skipped and mark_of(row) is None)
    return Counter(name_of[row["category_id"]] for row in rows)
