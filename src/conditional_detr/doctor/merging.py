"""Merge data sets that may label different classes. Images keep the list of the classes that are labelled in them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from conditional_detr.data.clean import Category
from conditional_detr.data.findings import OF_A_SPLIT, Finding
from conditional_detr.data.splits.together import spelling
from conditional_detr.doctor.copies import ORDER, duplicates, leaks
from conditional_detr.doctor.examine import as_written
from conditional_detr.doctor.examined import Examined
from conditional_detr.doctor.new_splits import merged
from conditional_detr.errors import ConfigError, DataError, plural, shortened_list
from conditional_detr.inference.progress import Track, untracked


class DataSet(NamedTuple):
    """A data set to merge: its name, its splits, and the names of the classes that it labels."""

    name: str
    splits: dict[str, Examined]
    classes: list[str]

    def __str__(self) -> str:
        images = sum(len(split.used) for split in self.splits.values())
        return f"{self.name}: {plural(images, 'image')}, labels {shortened_list(self.classes, 10)}"


class Merge(NamedTuple):
    """Merged data sets.

    Attributes
    ----------
    splits : the merged splits
    sets : the data sets
    findings : faults of all data sets, and images that are there more than once
    """

    splits: dict[str, Examined]
    sets: list[DataSet]
    findings: list[Finding]

    @property
    def warnings(self) -> list[str]:
        """Classes of different data sets whose names differ only by spelling: they may be the same class."""
        first: dict[str, tuple[str, str]] = {}
        found = []
        for each in self.sets:
            for name in each.classes:
                known, owner = first.setdefault(spelling(name), (name, each.name))
                if known != name and owner != each.name:
                    found.append(
                        f"{known!r} of {owner} and {name!r} of {each.name} become two classes. If they are the same class, "
                        "rename one of them and merge again"
                    )
        return found


def merge_sets(folders: Sequence[str | Path], track: Track = untracked) -> Merge:
    """Merge the splits of several data sets by name: train with train, valid with valid, test with test.

    Classes are merged by name. A data set labels the classes of its boxes; a class that is only listed does not count, unless
    the data set has no box at all. An image keeps its `labelled_category_ids`, if it has them. An image file that several data
    sets have becomes one image with the labels of all, see `duplicates`.

    Parameters
    ----------
    folders : data sets in any supported format, at least two
    track : function that shows progress

    Raises
    ------
    ConfigError : there are fewer than two data sets
    DataError : a folder is not a data set, or only some of the data sets have splits
    """
    if len(folders) < 2:
        raise ConfigError("merging needs at least two data sets")
    sets, findings = [], []
    for folder, name in zip(folders, _names(folders), strict=True):
        splits, found = as_written(folder, track)
        sets.append(DataSet(name, splits, labelled_classes(splits)))
        findings += [_of_set(each, name) for each in found]
    _check_splits(sets)
    categories = merged_categories(sets)
    of_split: dict[str, list[Examined]] = {}
    for each in sets:
        for name, split in each.splits.items():
            of_split.setdefault(name, []).append(_with_categories(split, each, categories))
    results = {
        name: merged({str(k): split for k, split in enumerate(of_split[name])})
        for name in sorted(of_split, key=lambda name: (name not in ORDER, ORDER.index(name) if name in ORDER else 0))
    }
    return Merge(results, sets, findings + duplicates(results) + leaks(results))


def _names(folders: Sequence[str | Path]) -> list[str]:
    """A short name for each data set: the name of its folder, or the path if two folders have the same name."""
    paths = [Path(folder).resolve() for folder in folders]
    names = [path.parent.name if path.is_file() else path.name for path in paths]
    times = Counter(names)
    return [str(folder) if times[name] > 1 else name for folder, name in zip(folders, names, strict=True)]


def _of_set(finding: Finding, name: str) -> Finding:
    """Add the name of the data set to a finding."""
    message = f"{name}: {finding.message}" if finding.code in OF_A_SPLIT else finding.message
    file = name if finding.file is None else finding.file if Path(finding.file).is_absolute() else f"{name}/{finding.file}"
    return replace(finding, file=file, message=message)


def _check_splits(sets: Sequence[DataSet]) -> None:
    """Raise `DataError` if only some of the data sets are divided into splits: training would not use the others."""
    whole = [each.name for each in sets if not set(each.splits) & set(ORDER)]
    if 0 < len(whole) < len(sets):
        raise DataError(
            f"{whole[0]} has no splits, but other data sets have: divide it first with "
            f"`cdetr data split {whole[0]} {whole[0]}-split`, and merge the result"
        )


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


def _with_categories(split: Examined, of: DataSet, categories: list[Category]) -> Examined:
    """Return a split with the categories of the merged set. Its images list the ones that are labelled, unless all are.

    File names begin with the name of the data set.
    """
    id_of = {category.name: category.id for category in categories}
    name_of = {category.id: category.name for category in split.clean.categories}
    images = []
    for image in split.clean.images:
        names = of.classes if image["labelled"] is None else [name_of[id_] for id_ in image["labelled"]]
        labelled = frozenset(id_of[name] for name in names)
        known = None if len(labelled) == len(categories) else labelled
        images.append(image | {"labelled": known, "file_name": f"{of.name}/{image['file_name']}"})
    rows = [row | {"category_id": id_of[name_of[row["category_id"]]]} for row in split.clean.annotations]
    return split._replace(clean=split.clean._replace(images=images, annotations=rows, categories=categories))
