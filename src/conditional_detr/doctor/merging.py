"""Merge data sets that may label different classes. Images keep the list of the classes that are labelled in them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from conditional_detr.config.run import RunOptions
from conditional_detr.data.clean import Category
from conditional_detr.data.findings import OF_A_SPLIT, Finding
from conditional_detr.data.splits.together import spelling, unlabelled_classes
from conditional_detr.doctor.copies import JOINED, ORDER, duplicates, leaks
from conditional_detr.doctor.examine import as_written
from conditional_detr.doctor.examined import Examined, objects_by_class
from conditional_detr.doctor.new_splits import merged
from conditional_detr.errors import ConfigError, DataError, plural, shortened_list
from conditional_detr.inference.progress import Track, untracked

MAX_BAD = RunOptions.model_fields["max_bad"].default  # largest fraction of the images of a data set that cannot be used


class DataSet(NamedTuple):
    """A data set to merge.

    Attributes
    ----------
    name, path : short name, and the path as given
    splits : its splits
    classes : names of the classes that it labels
    """

    name: str
    path: str
    splits: dict[str, Examined]
    classes: list[str]

    def __str__(self) -> str:
        images = sum(len(split.used) for split in self.splits.values())
        listed = {category.name: None for split in self.splits.values() for category in split.clean.categories}
        idle = [name for name in listed if name not in self.classes]
        without = f" (listed without a box, so not labelled: {shortened_list(idle, 10)})" if idle else ""
        return f"{self.name}: {plural(images, 'image')}, labels {shortened_list(self.classes, 10)}{without}"


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
        """Classes whose names differ only by spelling, and classes that the validation or test split does not label."""
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
        for name, split in self.splits.items():
            if name != "train" and split.labelled is not None and "train" in self.splits:
                rows = unlabelled_classes(name, split.labelled, objects_by_class(self.splits["train"]))
                found += [finding.message for finding in rows]
        return found

    @property
    def joined(self) -> int:
        """Number of images that got the labels of an identical file."""
        return sum(finding.code == "image-duplicate" and finding.fix == JOINED for finding in self.findings)


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
    ConfigError : there are fewer than two data sets, or one is given twice
    DataError : a folder is not a data set, many of its images cannot be used, or only some of the data sets have splits
    """
    if len(folders) < 2:
        raise ConfigError("merging needs at least two data sets")
    sets, findings = [], []
    paths = [Path(folder).resolve() for folder in folders]
    if twice := [folder for folder, path in zip(folders, paths, strict=True) if paths.count(path) > 1]:
        raise ConfigError(f"{twice[0]} is given twice")
    for folder, name in zip(folders, _names(folders), strict=True):
        splits, found = as_written(folder, track)
        _check_usable(folder, splits, found)
        sets.append(DataSet(name, str(folder), splits, labelled_classes(splits)))
        findings += [_of_set(each, name, Path(folder)) for each in found]
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


def _of_set(finding: Finding, name: str, folder: Path) -> Finding:
    """Add the name of the data set to a finding."""
    message = f"{name}: {finding.message}" if finding.code in OF_A_SPLIT else finding.message
    return replace(finding, file=name if finding.file is None else _in_set(finding.file, name, folder), message=message)


def _in_set(file: str, name: str, folder: Path) -> str:
    """The name of a file with the name of its data set in front."""
    root = folder.parent if folder.is_file() else folder
    for path in (Path(file), Path(file).resolve()):
        if path.is_absolute() and path.is_relative_to(root.resolve()):
            return f"{name}/{path.relative_to(root.resolve())}"
    return file if Path(file).is_absolute() else f"{name}/{file}"


def _check_usable(folder: str | Path, splits: dict[str, Examined], findings: Sequence[Finding]) -> None:
    """Raise `DataError` if a data set would lose many of its images or boxes, as `train` does."""
    misread = [finding for split in splits.values() for finding in split.clean.misread]
    if misread and misread[0].code == "box-unlabelled":
        raise DataError(f"{folder}: {misread[0].message}")
    used = {(split.name, split.clean.images[i]["file_name"]) for split in splits.values() for i in split.used}
    lost = {(finding.split, finding.file) for finding in findings if finding.loses_image} - used
    if len(lost) > MAX_BAD * len(lost | used):
        raise DataError(
            f"{len(lost)} of {len(lost | used)} images of {folder} cannot be used. `cdetr doctor {folder}` lists them"
        )


def _check_splits(sets: Sequence[DataSet]) -> None:
    """Raise `DataError` if only some of the data sets are divided into splits: training would not use the others."""
    whole = [each.path for each in sets if not set(each.splits) & set(ORDER)]
    if 0 < len(whole) < len(sets):
        raise DataError(
            f"{whole[0]} has no splits, but other data sets have: divide it first with "
            f"`cdetr data split {whole[0]} {Path(whole[0]).name}-split`, and merge the result"
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
        images.append(image | {"labelled": known, "file_name": _in_set(image["file_name"], of.name, Path(of.path))})
    rows = [row | {"category_id": id_of[name_of[row["category_id"]]]} for row in split.clean.annotations]
    return split._replace(clean=split.clean._replace(images=images, annotations=rows, categories=categories))
