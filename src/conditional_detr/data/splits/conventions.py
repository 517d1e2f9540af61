"""Detect conventions of the annotations of a data set: category ids that are off by one, and objects marked as crowds.

All splits are read together, because a single split may not have enough annotations to decide.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from conditional_detr.data.annotations import MANY_UNKNOWN, as_id, mark_of, printable
from conditional_detr.data.box_format import COCO, FEW

Content = dict[str, Any]
MIN_MARKED_TO_IGNORE_MARK = 0.5  # minimum fraction of a class's annotations with a mark for which the mark is ignored
MIN_MARKED_TO_REPORT = 0.1  # minimum fraction of a class's annotations with a mark that is reported


class Conventions(NamedTuple):
    """Conventions of the annotations of a data set.

    Attributes
    ----------
    layout : box layout found in any split; see `BoxFormat.layout`
    shift : number to add to the category ids of all annotations
    objects : pairs of mark (see `mark_of`) and class name. Annotations of the class with this mark are ordinary objects
    """

    layout: str = COCO
    shift: int = 0
    objects: frozenset[tuple[str, str]] = frozenset()


def conventions_of(contents: Sequence[Content]) -> Conventions:
    """Detect the conventions of a data set from the COCO contents of its splits. The layout of boxes is not detected here."""
    shift = category_shift(contents)
    return Conventions(shift=shift, objects=marked_objects(contents, shift))


def category_shift(contents: Sequence[Content]) -> int:
    """Detect category ids that are off by one, because annotations count from 0 and categories from 1, or the reverse.

    A shift explains the ids if it turns unknown ids into listed ones, and no listed id into an unknown one, in all splits. One
    unknown id next to the listed range is enough. Other unknown ids must be frequent.

    Returns
    -------
    the number to add to the category ids of the annotations: -1, 0 or 1
    """
    up, down = _explained(contents, 1), _explained(contents, -1)
    return 0 if up == down else 1 if up > down else -1


def _explained(contents: Sequence[Content], shift: int) -> int:
    """Number of annotations whose category id is listed only after a shift; 0 if the shift does not explain the ids."""
    gained = total = 0
    is_at_edge = False
    for content in contents:
        listed, used = ids_of(content)
        if loses(listed, used, shift):
            return 0
        found = {id_: count for id_, count in used.items() if id_ not in listed and id_ + shift in listed}
        gained, total = gained + sum(found.values()), total + used.total()
        is_at_edge |= bool(found) and (min(listed) - 1 if shift == 1 else max(listed) + 1) in found
    return gained if is_at_edge or gained >= max(FEW, MANY_UNKNOWN * total) else 0


def ids_of(content: Content) -> tuple[set[int], Counter[int]]:
    """The listed category ids, and how often annotations use each id. Ids that are not integers are left out."""
    listed = {id_ for row in content["categories"] if isinstance(id_ := as_id(row.get("id")), int)}
    return listed, Counter(id_ for row in content["annotations"] if isinstance(id_ := as_id(row.get("category_id")), int))


def loses(listed: set[int], used: Counter[int], shift: int) -> bool:
    """Whether a listed id that is used would be unknown after a shift."""
    return any(id_ in listed and id_ + shift not in listed for id_ in used)


def marked_objects(contents: Sequence[Content], shift: int = 0) -> frozenset[tuple[str, str]]:
    """Find marks that have no meaning, because most objects of a class or of the data set have them.

    Some annotation tools write `iscrowd: 1` for every mask in run-length encoding, also for a single object.

    Returns
    -------
    see `Conventions.objects`
    """
    marked, every = marks_by_class(contents, shift)
    by_mark: Counter[str] = Counter()
    for (mark, _), count in marked.items():
        by_mark[mark] += count
    usual = {mark for mark, count in by_mark.items() if count >= MIN_MARKED_TO_IGNORE_MARK * every.total()}
    return frozenset(
        (mark, name)
        for (mark, name), count in marked.items()
        if mark in usual or (count >= FEW and count >= MIN_MARKED_TO_IGNORE_MARK * every[name])
    )


def marks_by_class(contents: Sequence[Content], shift: int = 0) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """Count annotations by mark and class name, and all annotations by class name."""
    marked: Counter[tuple[str, str]] = Counter()
    every: Counter[str] = Counter()
    for content in contents:
        name_of = {as_id(row.get("id")): printable(str(row.get("name"))) for row in content["categories"]}
        for row in content["annotations"]:
            id_ = as_id(row.get("category_id"))
            name = name_of.get(id_ + shift if isinstance(id_, int) else id_)
            if name is not None:
                every[name] += 1
                if (mark := mark_of(row)) is not None:
                    marked[mark, name] += 1
    return marked, every
