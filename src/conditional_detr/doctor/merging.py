"""Merge data sets that may label different classes. Images keep the list of the classes that are labelled in them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from conditional_detr.data.clean import Category, summary
from conditional_detr.data.findings import Finding
from conditional_detr.data.splits.together import spelling
from conditional_detr.doctor.examine import ORDER, Examined, as_written, leaks
from conditional_detr.doctor.new_splits import merged
from conditional_detr.errors import ConfigError, plural, shortened_list
from conditional_detr.inference.progress import Track, untracked


class DataSet(NamedTuple):
    """A data set to merge: its name, its splits, and the names of the classes that it labels."""

    name: str
    splits: dict[str, Examined]
    classes: list[str]


class Merge(NamedTuple):
    """Merged data sets.

    Attributes
    ----------
    splits : the merged splits
    sets : the data sets
    findings : faults of all data sets, and images that are in several splits
    joined : number of images that are in several data sets; their labels are joined
    """

    splits: dict[str, Examined]
    sets: list[DataSet]
    findings: list[Finding]
    joined: int

    @property
    def warnings(self) -> list[str]:
        """Classes of different data sets whose names differ only by spelling: they may be the same class."""
        first: dict[str, tuple[str, str]] = {}
        found = []
        for each in self.sets:
            for name in each.classes:
                known, owner = first.setdefault(spelling(name), (name, each.name))
                if known != name:
                    found.append(
                        f"{known!r} of {owner} and {name!r} of {each.name} become two classes. If they are the same class, "
                        "rename one of them and merge again"
                    )
        return list(dict.fromkeys(found))


def merge_sets(folders: Sequence[str | Path], track: Track = untracked) -> Merge:
    """Merge the splits of several data sets by name: train with train, valid with valid, test with test.

    Classes are merged by name. A data set labels the classes of its boxes; a listed class without a box does not count. An
    image keeps its `labelled_category_ids`, if it has them. An image file that several data sets have becomes one image with
    the labels of all; of a class that several label, the first data set counts.

    Parameters
    ----------
    folders : data sets in any supported format, at least two
    track : function that shows progress

    Raises
    ------
    ConfigError : there are fewer than two data sets
    DataError : a folder is not a data set
    """
    if len(folders) < 2:
        raise ConfigError("merging needs at least two data sets")
    names = _names(folders)
    sets, findings = [], []
    for folder, name in zip(folders, names, strict=True):
        splits, found = as_written(folder, track)
        sets.append(DataSet(name, splits, labelled_classes(splits)))
        findings += [replace(each, file=name if each.file is None else f"{name}/{each.file}") for each in found]
    categories = merged_categories(sets)
    of_split: dict[str, list[Examined]] = {}
    for each in sets:
        for name, split in each.splits.items():
            of_split.setdefault(name, []).append(_with_categories(split, each.classes, categories))
    results, joined = {}, 0
    for name in sorted(of_split, key=lambda name: (name not in ORDER, ORDER.index(name) if name in ORDER else 0)):
        whole = merged({str(k): split for k, split in enumerate(of_split[name])})
        results[name], count = joined_copies(whole)
        joined += count
    findings += leaks(results)
    return Merge(results, sets, findings, joined)


def _names(folders: Sequence[str | Path]) -> list[str]:
    """A short name for each data set: the name of its folder, or the path if two folders have the same name."""
    times = Counter(Path(folder).name for folder in folders)
    return [str(folder) if times[Path(folder).name] > 1 else Path(folder).name for folder in folders]


def labelled_classes(splits: dict[str, Examined]) -> list[str]:
    """Names of the classes that a data set labels: those with a box. Without any box, all that it lists."""
    listed, used = dict[str, None](), set[str]()
    for split in splits.values():
        name_of = {category.id: category.name for category in split.clean.categories}
        listed |= dict.fromkeys(name_of.values())
        used |= {name_of[row["category_id"]] for row in split.clean.annotations}
        used |= {name_of[id_] for image in split.clean.images for id_ in image["labelled"] or ()}
    return [name for name in listed if name in used or not used]


def merged_categories(sets: Sequence[DataSet]) -> list[Category]:
    """The classes of all data sets. They keep the category ids of the first data set that has them, if these are free."""
    ids: dict[str, int] = {}
    for each in sets:
        own = {category.name: category.id for split in each.splits.values() for category in split.clean.categories}
        for name in each.classes:
            is_free = own[name] not in ids.values()
            ids.setdefault(name, own[name] if is_free else 1 + max(ids.values()))
    return sorted((Category(id_, name) for name, id_ in ids.items()), key=lambda category: category.id)


def _with_categories(split: Examined, classes: Sequence[str], categories: list[Category]) -> Examined:
    """Return a split with the categories of the merged set. Its images list the ones that are labelled, unless all are."""
    id_of = {category.name: category.id for category in categories}
    name_of = {category.id: category.name for category in split.clean.categories}
    images = []
    for image in split.clean.images:
        names = classes if image["labelled"] is None else [name_of[id_] for id_ in image["labelled"]]
        labelled = frozenset(id_of[name] for name in names)
        images.append(image | {"labelled": None if len(labelled) == len(categories) else labelled})
    rows = [row | {"category_id": id_of[name_of[row["category_id"]]]} for row in split.clean.annotations]
    return split._replace(clean=split.clean._replace(images=images, annotations=rows, categories=categories))


def joined_copies(split: Examined) -> tuple[Examined, int]:
    """Join the labels of identical image files. Returns the split, and the number of images that were copies.

    The copies stay in the split as images that are left out.
    """
    images, ids = [*split.clean.images], frozenset(category.id for category in split.clean.categories)
    first: dict[tuple[bytes, int, int], int] = {}
    kept: dict[tuple[int, int], int] = {}  # (copy, category) → the image that its boxes go to
    copies = set[int]()
    for i, (image, scan) in enumerate(zip(split.clean.images, split.scans, strict=True)):
        j = first.setdefault((scan.digest, image["width"], image["height"]), i)
        if scan.fault is None and j != i:
            copies.add(i)
            known, added = (images[k]["labelled"] or (ids if images[k]["labelled"] is None else frozenset()) for k in (j, i))
            kept |= {(i, id_): j for id_ in added - known}
            images[j] = images[j] | {"labelled": None if known | added == ids else known | added}
    rows = []
    for row in split.clean.annotations:
        owner = row["image"] if row["image"] not in copies else kept.get((row["image"], row["category_id"]))
        if owner is not None:
            rows.append(row | {"image": owner})
    clean = split.clean._replace(images=images, annotations=rows)
    return split._replace(clean=clean, skipped=split.skipped | copies, summary=summary(clean)), len(copies)


def described(result: Merge) -> list[str]:
    """Lines that describe a merge: the classes of each data set, and what was joined."""
    lines = []
    for each in result.sets:
        images = sum(len(split.clean.images) - len(split.skipped) for split in each.splits.values())
        lines.append(f"{each.name}: {plural(images, 'image')}, labels {shortened_list(each.classes, 10)}")
    if result.joined:
        lines.append(f"{plural(result.joined, 'image')} of several data sets: their labels are joined")
    return lines
