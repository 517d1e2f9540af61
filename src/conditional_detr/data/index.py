"""Load a split of a data set, in any supported format, into flat arrays."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from conditional_detr.data.annotations import as_id, mark_of
from conditional_detr.data.clean import Category, Clean, summary
from conditional_detr.data.discovery import check_lists, described, find_source, read_json, sources
from conditional_detr.data.findings import Finding, counted
from conditional_detr.data.splits.summary import Summary, summary_of
from conditional_detr.data.splits.together import clean_among_splits, spelled_otherwise
from conditional_detr.errors import DataError, shortened_list

__all__ = ["Category", "SplitIndex", "as_id", "check_lists", "load_split", "match_categories", "read_json", "sources"]


@dataclass(frozen=True)
class SplitIndex:
    """Images and boxes of a split, in flat arrays that worker processes share without copying.

    Attributes
    ----------
    file : annotation file
    image_ids : int64 [I]; ids that are strings in the data set are replaced by numbers
    written_ids : [I], image ids as in the data set, for output files
    sizes_hw : int64 [I, 2], height and width of the images in px, according to the annotations
    paths : [I], files of the images
    first : int64 [I + 1]; the boxes of image i are rows first[i] to first[i + 1] (excluded) of `boxes_xyxy` and `labels`
    boxes_xyxy : float32 [A, 4] px, with a positive area, inside their image. Marked boxes are left out (see `mark_of`)
    labels : int64 [A], class indices: positions in `categories`
    categories : ordered by id
    report : summary of `findings`, one line per finding code
    findings : all faults that were found
    ground_truth_rows : float64 [T, 8], ground truth for evaluation, see `Clean.ground_truth_rows`
    left_out : number of boxes that are not used, by reason
    labelled : bool [I, K], whether the objects of a class are labelled in an image; None = all classes in all images
    """

    file: Path
    image_ids: np.ndarray
    written_ids: list[int | str]
    sizes_hw: np.ndarray
    paths: list[str]
    first: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    categories: list[Category]
    report: list[str]
    findings: list[Finding]
    ground_truth_rows: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)
    labelled: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float32 [M, 4] xyxy px and labels int64 [M] of image i. Marked boxes, such as crowds, are left out."""
        rows = slice(self.first[i], self.first[i + 1])
        return self.boxes_xyxy[rows], self.labels[rows]

    @property
    def summary(self) -> Summary:
        """Counts of images, boxes, classes and boxes that are left out."""
        owners = np.repeat(np.arange(len(self)), np.diff(self.first))
        names = [category.name for category in self.categories]
        partly = 0 if self.labelled is None else int((~self.labelled.all(1)).sum())
        return summary_of(len(self), owners, self.labels, names, self.left_out, partly)

    @property
    def labelled_names(self) -> list[str]:
        """Names of the classes that are labelled in one of the images at least."""
        columns = range(len(self.categories))
        return [self.categories[k].name for k in columns if self.labelled is None or self.labelled[:, k].any()]

    @property
    def missing(self) -> list[str]:
        """Listed images that cannot be used, as far as this is known without decoding them."""
        return sorted({str(finding.file) for finding in self.findings if finding.loses_image})

    def without(self, positions: Collection[int]) -> "SplitIndex":
        """Return a copy without some images, given by their positions.

        Raises
        ------
        DataError : no image is left
        """
        if not positions:
            return self
        kept = np.setdiff1d(np.arange(len(self)), list(positions))
        if not len(kept):
            raise DataError(f"none of the {len(self)} images listed in {self.file} can be used")
        owners = np.repeat(np.arange(len(self)), np.diff(self.first))
        rows = np.isin(owners, kept)
        truth = self.ground_truth_rows[np.isin(self.ground_truth_rows[:, 0], kept)]
        truth[:, 0] = np.searchsorted(kept, truth[:, 0])
        return replace(
            self,
            image_ids=self.image_ids[kept],
            written_ids=[self.written_ids[i] for i in kept],
            sizes_hw=self.sizes_hw[kept],
            paths=[self.paths[i] for i in kept],
            first=np.searchsorted(owners[rows], np.append(kept, len(self))),
            boxes_xyxy=self.boxes_xyxy[rows],
            labels=self.labels[rows],
            ground_truth_rows=truth,
            labelled=None if self.labelled is None else self.labelled[kept],
        )

    def ground_truth(self) -> dict[str, Any]:
        """Return the ground truth for evaluation as COCO content: all boxes that could be read, including crowds.

        Images list their `labelled_category_ids` if not all categories are labelled in all images.
        """
        rows = self.ground_truth_rows.tolist()
        images: list[dict[str, Any]] = [{"id": id_} for id_ in self.image_ids.tolist()]
        if self.labelled is not None:
            ids = np.array([category.id for category in self.categories])
            for image, labelled in zip(images, self.labelled, strict=True):
                image["labelled_category_ids"] = ids[labelled].tolist()
        return {
            "images": images,
            "annotations": [
                {
                    "image_id": int(self.image_ids[int(i)]), "category_id": int(category), "bbox": box, "area": area,
                    "iscrowd": int(crowd),
                }
                for i, category, *box, area, crowd in rows
            ],
            "categories": [{"id": c.id, "name": c.name} for c in self.categories],
        }  # fmt: skip

    def has_size(self, i: int, size_hw: tuple[int, int]) -> bool:
        """Whether image i has the size that the annotations give."""
        return bool((self.sizes_hw[i] == size_hw).all())

    def check_size(self, i: int, size_hw: tuple[int, int]) -> None:
        """Check that a decoded image has the size that the annotations give. Otherwise its boxes are not valid.

        Raises
        ------
        DataError : the sizes differ
        """
        stated_wh = tuple(int(side) for side in self.sizes_hw[i])
        if not self.has_size(i, size_hw):
            raise DataError(
                f"{self.paths[i]} is {size_hw[1]} x {size_hw[0]} px after EXIF rotation, but {self.file} says "
                f"{stated_wh[1]} x {stated_wh[0]}: its boxes cannot be used"
            )


def load_split(folder: str | Path, split: str) -> SplitIndex:
    """Load a split of a data set. Unusable images and boxes are left out and listed in `report`.

    Raises
    ------
    DataError : there is no such split, no image can be used, an image lies outside the data set's folder, or boxes or
        category ids are not in the expected format
    """
    source = find_source(folder, split)
    content, faults = source.read()
    if not content["images"]:
        reasons = f". Faults: {described(faults)}" if faults else ""
        raise DataError(f"{source.location.file} lists no images{reasons}")
    found = clean_among_splits(folder, content, source.location)
    if stops := [*found.misread, *(each for each in found.findings if each.code == "image-outside-folder")]:
        advice = "" if stops[0].code == "box-unlabelled" else f". `cdetr doctor {folder} --fix OUT` writes a repaired copy"
        raise DataError(f"{source.location.file}: {stops[0].message}{advice}")
    findings = [*found.findings, *faults]
    if not found.images:
        first = found.findings[0]
        raise DataError(
            f"{source.location.file}: none of its {len(content['images'])} images can be used: {first.file}: {first.message}"
        )
    rows = sorted((row for row in found.annotations if mark_of(row) is None), key=lambda row: row["image"])
    label_of = {category.id: i for i, category in enumerate(found.categories)}
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    owners = np.array([row["image"] for row in rows], dtype=np.int64)
    return SplitIndex(
        file=source.location.file,
        image_ids=np.array([image["id"] for image in found.images], dtype=np.int64),
        written_ids=[image["written_id"] for image in found.images],
        sizes_hw=np.array([(image["height"], image["width"]) for image in found.images], dtype=np.int64),
        paths=[image["path"] for image in found.images],
        first=np.searchsorted(owners, np.arange(len(found.images) + 1)),
        boxes_xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32),
        labels=np.array([label_of[row["category_id"]] for row in rows], dtype=np.int64),
        categories=found.categories,
        report=counted(findings),
        findings=findings,
        ground_truth_rows=np.array(found.ground_truth_rows, dtype=np.float64).reshape(-1, 8),
        left_out=dict(summary(found, faults).left_out),
        labelled=_labelled(found),
    )


def _labelled(found: Clean) -> np.ndarray | None:
    """As `SplitIndex.labelled`."""
    ids = [category.id for category in found.categories]
    of_image = [image["labelled"] for image in found.images]
    rows = np.array([[labelled is None or id_ in labelled for id_ in ids] for labelled in of_image], dtype=bool)
    return None if rows.all() else rows


def match_categories(names: list[str], ids: list[int], categories: Iterable[Category], origin: str) -> dict[int, int]:
    """Map the class indices of a model to the category ids of a data set, by class name.

    If no name matches and the class names of the model are the numbers 0 to K − 1, classes are matched by id. Otherwise ids are
    not compared, because an id may mean "cat" in one data set and "dog" in another.

    Raises
    ------
    DataError : the model and the data set have no class in common
    """
    categories = list(categories)
    by_name = {c.name: c.id for c in categories}
    known = {c.id for c in categories}
    mapping = {i: by_name[name] for i, name in enumerate(names) if name in by_name}
    if not mapping and names == [str(i) for i in range(len(names))]:
        mapping = {i: id_ for i, id_ in enumerate(ids) if id_ in known}
    if not mapping:
        twins = spelled_otherwise(by_name, names)
        are_they = "".join(f". Are {other!r} and {name!r} the same class?" for name, other in [*twins.items()][:3])
        raise DataError(
            f"no class of the model is a category of {origin}: the model has {shortened_list(names)}; the data has "
            f"{shortened_list(by_name)}{are_they}. "
            "If the same classes have other names, set the model's class_names (or rename the categories)"
        )
    return mapping
