"""Divide a data set into new splits with balanced classes. Images that look the same stay in one split."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from conditional_detr.data.annotations import Row
from conditional_detr.data.clean import Category, summary
from conditional_detr.doctor.examined import Examined
from conditional_detr.doctor.image_scan import ImageScan, near_groups
from conditional_detr.errors import ConfigError, DataError, plural

NO_CLASS = ""  # class of images without objects
Parts = dict[str, list[int]]  # split → positions of its images


class Pool(NamedTuple):
    """All usable images of a data set.

    Attributes
    ----------
    images, scans : images, with ids that are unique in the data set, and their scans
    annotations : their boxes; "image" is the position in `images`
    categories : union of the categories of all splits, by name
    origin : one of the original splits
    """

    images: list[Row]
    scans: list[ImageScan]
    annotations: list[Row]
    categories: list[Category]
    origin: Examined


def shares_of(valid: float, test: float) -> dict[str, float]:
    """Return the fraction of the images for each new split.

    Raises
    ------
    ConfigError : a fraction is negative, or nothing is left for train or valid
    """
    if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise ConfigError(
            f"--valid must be above 0, --test 0 or more, and their sum below 1, such as 0.2 and 0.1, not {valid:g} and {test:g}"
        )
    return {"train": 1 - valid - test, "valid": valid, **({"test": test} if test else {})}


def divided(splits: dict[str, Examined], shares: dict[str, float], seed: int) -> tuple[dict[str, Examined], int]:
    """Merge all splits and divide their usable images into new splits.

    Images that look the same stay in one split.

    Returns
    -------
    the new splits, and the number of groups of images that look the same

    Raises
    ------
    DataError : there are fewer groups than splits
    """
    pool = pooled(splits)
    groups = near_groups(pool.scans)
    parts = balanced(groups, classes_of(pool), shares, seed)
    return {name: _part(pool, positions) for name, positions in parts.items()}, sum(len(group) > 1 for group in groups)


def merged(splits: dict[str, Examined]) -> Examined:
    """Merge the usable images of all splits into one."""
    pool = pooled(splits)
    return _part(pool, list(range(len(pool.images))))


def folds_of(splits: dict[str, Examined], count: int, seed: int) -> list[dict[str, Examined]]:
    """Merge all splits and divide their usable images into folds; each is the validation split once.

    Images that look the same stay in one fold.

    Raises
    ------
    ConfigError : there are fewer than two folds
    DataError : there are fewer groups of images than folds
    """
    if count < 2:
        raise ConfigError(f"--folds must be 2 or more, not {count}")
    pool = pooled(splits)
    parts = balanced(near_groups(pool.scans), classes_of(pool), {str(k): 1 / count for k in range(count)}, seed)
    folds = []
    for chosen in parts.values():
        others = sorted(set(range(len(pool.images))) - set(chosen))
        folds.append({"train": _part(pool, others), "valid": _part(pool, chosen)})
    return folds


def pooled(splits: dict[str, Examined]) -> Pool:
    """Merge the usable images of all splits. Classes are merged by name. If ids are not unique, new ones are assigned."""
    images: list[Row] = []
    scans: list[ImageScan] = []
    annotations: list[Row] = []
    ids: dict[str, int] = {}
    for split in splits.values():
        for category in split.clean.categories:
            is_free = category.id not in ids.values()
            ids.setdefault(category.name, category.id if is_free else 1 + max(ids.values()))
        name_of = {category.id: category.name for category in split.clean.categories}
        new_place: dict[int, int] = {}
        for i, image in enumerate(split.clean.images):
            if i not in split.skipped:
                new_place[i] = len(images)
                labelled = image["labelled"]
                known = None if labelled is None else frozenset(ids[name_of[id_]] for id_ in labelled)
                images.append(image | {"labelled": known})
                scans.append(split.scans[i])
        for row in split.clean.annotations:
            if row["image"] in new_place:
                annotations.append(row | {"image": new_place[row["image"]], "category_id": ids[name_of[row["category_id"]]]})
    if len({str(image["written_id"]) for image in images}) < len(images):
        images = [image | {"id": number, "written_id": number} for number, image in enumerate(images, 1)]
    if len({row["id"] for row in annotations}) < len(annotations):
        annotations = [row | {"id": number} for number, row in enumerate(annotations, 1)]
    categories = sorted((Category(id_, name) for name, id_ in ids.items()), key=lambda category: category.id)
    return Pool(images, scans, annotations, categories, next(iter(splits.values())))


def classes_of(pool: Pool) -> list[set[int | str]]:
    """Return the category ids of the objects of each image; `NO_CLASS` for an image without objects."""
    found: list[set[int | str]] = [set() for _ in pool.images]
    for row in pool.annotations:
        found[row["image"]].add(row["category_id"])
    return [classes or {NO_CLASS} for classes in found]


def balanced(groups: Sequence[Sequence[int]], classes: Sequence[set[int | str]], shares: dict[str, float], seed: int) -> Parts:
    """Assign each group of images to a split, so that each split gets about its fraction of the images of each class.

    Classes are assigned from the rarest to the most frequent one. A group is assigned to the split that lacks the most images
    of the class (Sechidis et al., On the stratification of multi-label data, 2011).

    Parameters
    ----------
    groups : positions of images that must not be separated
    classes : classes of each image
    shares : fraction of the images for each split
    seed : random seed of the order of the groups

    Raises
    ------
    DataError : there are fewer groups than splits
    """
    if len(groups) < len(shares):
        raise DataError(
            f"each split needs at least one group of different images, because images that look the same stay in one split: "
            f"{plural(len(groups), 'group')} cannot be divided into {len(shares)} splits"
        )
    order = [list(group) for group in groups]
    random.Random(seed).shuffle(order)
    counts = [Counter(label for i in group for label in classes[i]) for group in order]
    total, holders = sum(counts, Counter()), Counter(label for count in counts for label in count)
    lacking = {name: {label: share * total[label] for label in total} for name, share in shares.items()}
    room = {name: share * len(classes) for name, share in shares.items()}
    split_of: dict[int, str] = {}
    for label in sorted(holders, key=lambda label: (holders[label], str(label))):
        for g in sorted(
            (g for g in range(len(order)) if label in counts[g] and g not in split_of), key=lambda g: -len(order[g])
        ):
            open_ = [name for name in shares if 2 * room[name] >= len(order[g])] or list(shares)
            name = max(open_, key=lambda name: (lacking[name][label], room[name]))
            split_of[g] = name
            room[name] -= len(order[g])
            for each, number in counts[g].items():
                lacking[name][each] -= number
    _fill_empty(split_of, order, list(shares))
    return {name: sorted(i for g, at in split_of.items() if at == name for i in order[g]) for name in shares}


def _fill_empty(split_of: dict[int, str], groups: list[list[int]], names: list[str]) -> None:
    """Give each empty split the smallest group of the split that has the most groups."""
    for name in names:
        if name not in split_of.values():
            most = max(names, key=lambda other: sum(at == other for at in split_of.values()))
            split_of[min((g for g, at in split_of.items() if at == most), key=lambda g: len(groups[g]))] = name


def _part(pool: Pool, positions: list[int]) -> Examined:
    new_place = {i: place for place, i in enumerate(positions)}
    rows = [row | {"image": new_place[row["image"]]} for row in pool.annotations if row["image"] in new_place]
    clean = pool.origin.clean._replace(
        images=[pool.images[i] for i in positions], annotations=rows, categories=pool.categories, ground_truth_rows=[],
        left_out={},
    )  # fmt: skip
    return Examined(pool.origin.source, clean, [pool.scans[i] for i in positions], set(), summary(clean))
