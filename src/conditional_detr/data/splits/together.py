"""Compare the splits of a data set: conventions of their annotations, and differences between their class names."""

import contextlib
import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conditional_detr.data.box_format import COCO
from conditional_detr.data.clean import Clean, clean
from conditional_detr.data.discovery import sources
from conditional_detr.data.findings import Finding
from conditional_detr.data.splits.conventions import Conventions, conventions_of, ids_of, loses, marks_by_class
from conditional_detr.data.splits.location import SplitLocation
from conditional_detr.errors import DataError, plural, shortened_list

Read = tuple[dict[str, Any], SplitLocation]  # COCO content, and where it was read from
OF_LAYOUT = {
    "box-degenerate",
    "box-outside",
    "box-partly-outside",
    "box-format",
}  # codes of faults that a wrong box layout may cause
MIN_MARKED_TO_READ_OTHERS = 0.25  # minimum fraction of a class's annotations with a mark for which other splits are read


def conventions_across(read: Sequence[Read]) -> Conventions:
    """Detect the conventions of a data set from all its splits together."""
    conventions = conventions_of([content for content, _ in read])
    layouts = [clean(content, location, conventions).layout for content, location in read]
    return conventions._replace(layout=next((layout for layout in layouts if layout != COCO), COCO))


def clean_among_splits(folder: str | Path, content: dict[str, Any], location: SplitLocation) -> Clean:
    """Check one split as `clean` does. Other splits of its data set are read only if they can change the result."""
    alone = clean(content, location)
    if not _depends_on_others(content, alone):
        return alone
    others: list[Read] = []
    for source in sources(Path(folder)).values():
        if source.location != location:
            with contextlib.suppress(DataError):  # reported when that split is used
                others.append((source.read()[0], source.location))
    return clean(content, location, conventions_across([(content, location), *others])) if others else alone


def _depends_on_others(content: dict[str, Any], alone: Clean) -> bool:
    listed, used = ids_of(content)
    marked, every = marks_by_class([content])
    return bool(content["annotations"]) and (
        any(finding.code in OF_LAYOUT for finding in alone.findings)
        or not all(loses(listed, used, shift) for shift in (1, -1))
        or any(count >= MIN_MARKED_TO_READ_OTHERS * every[name] for (_, name), count in marked.items())
    )


def class_differences(objects: Mapping[str, Mapping[str, int]]) -> list[Finding]:
    """Find classes with objects in the training split but not in another one, and the reverse.

    Parameters
    ----------
    objects : for each split the number of objects of each listed class
    """
    train = objects.get("train", {})
    findings: list[Finding] = []
    for name, other in objects.items():
        if name == "train" or not train:
            continue
        findings += _only_here(name, other, "train", train, "training cannot learn it, so its AP is 0")
        findings += _only_here("train", train, name, other, "its AP cannot be computed")
    return findings


def unlabelled_classes(name: str, labelled: Iterable[str], train: Mapping[str, int]) -> list[Finding]:
    """Find classes with objects in the training split that are labelled in no image of another split.

    Parameters
    ----------
    name : name of the other split
    labelled : names of the classes that are labelled in one of its images at least
    train : number of objects of each class in the training split
    """
    known = set(labelled)
    missing = [each for each, count in train.items() if count and each not in known]
    if not missing:
        return []
    these = "this class" if len(missing) == 1 else "these classes"
    text = f"no image of {name} labels {shortened_list(missing, 10)}: the AP of {these} cannot be computed"
    return [Finding("category-in-one-split", name, None, None, text)]


def _only_here(name: str, here: Mapping[str, int], other_name: str, there: Mapping[str, int], effect: str) -> list[Finding]:
    findings = []
    rest = [each for each in there if each not in here or not here[each]]
    for each, count in here.items():
        twin = next((other for other in rest if other != each and spelling(other) == spelling(each)), None)
        # If another split lists the class without objects, the summary counts it. It is a finding only if the spelling differs.
        if not count or there.get(each) or (each in there and name == "train" and twin is None):
            continue
        text = f"the class {each!r} has {plural(count, 'object')} in {name} but none in {other_name}: {effect}"
        if twin is not None:
            text += f". {other_name} has {twin!r}: are they the same class?"
        elif near := difflib.get_close_matches(each, rest, n=1, cutoff=0.6):
            text += f". The nearest name that only {other_name} has is {near[0]!r}"
        findings.append(Finding("category-in-one-split", name, None, None, text))
    return findings


def spelling(name: str) -> str:
    """Return a class name without case, blanks, hyphens and underscores. Equal results probably mean the same class."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())


def spelled_otherwise(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Map each unknown name to the known name that has the same `spelling`, if there is one."""
    known = list(known)
    by_spelling = {spelling(name): name for name in known}
    return {name: by_spelling[spelling(name)] for name in names if name not in known and spelling(name) in by_spelling}
