"""How the annotations of a data set are written: category ids that are off by one, and objects that are marked as crowds.

Both are judged over all splits together, because a split may show only a part of the evidence.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from conditional_detr.data.annotations import MANY_UNKNOWN, as_id, mark_of, printable
from conditional_detr.data.box_format import COCO, FEW

Content = dict[str, Any]
MOST_MARKED = 0.5  # from this fraction of a class's annotations on, annotations with a mark are its ordinary objects
MANY_MARKED = 0.1  # fraction of a class's annotations that is reported


class Conventions(NamedTuple):
    """How the annotations of a data set are written.

    Attributes
    ----------
    layout : box layout that another split has; see `BoxFormat.layout`
    shift : number to add to the category ids of all annotations
    objects : pairs of mark (see `mark_of`) and class name whose annotations are ordinary objects
    """

    layout: str = COCO
    shift: int = 0
    objects: frozenset[tuple[str, str]] = frozenset()


def conventions_of(contents: Sequence[Content]) -> Conventions:
    """Judge COCO contents, one per split, together. The box layout is not judged here."""
    shift = category_shift(contents)
    return Conventions(shift=shift, objects=marked_objects(contents, shift))


def category_shift(contents: Sequence[Content]) -> int:
    """Detect category ids that are off by one, because annotations count from 0 and categories from 1, or the reverse.

    A shift explains the ids if it makes unknown ids known and no known id unknown, in any split. An unknown id that lies just
    outside the listed ones is evidence, however rare it is. Other unknown ids must be frequent.

    Returns
    -------
    the number to add to the category ids of the annotations; 0 = nothing
    """
    up, down = _explained(contents, 1), _explained(contents, -1)
    return 0 if up == down else 1 if up > down else -1


def _explained(contents: Sequence[Content], shift: int) -> int:
    """Number of annotations whose category id is only known after a shift; 0 if the shift does not explain the ids."""
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
    """The listed category ids, and how often annotations use each id. What is no number is left out."""
    listed = {id_ for row in content["categories"] if isinstance(id_ := as_id(row.get("id")), int)}
    return listed, Counter(id_ for row in content["annotations"] if isinstance(id_ := as_id(row.get("category_id")), int))


def loses(listed: set[int], used: Counter[int], shift: int) -> bool:
    """Whether ids that are listed would be unknown after a shift."""
    return any(id_ in listed and id_ + shift not in listed for id_ in used)


def marked_objects(contents: Sequence[Content], shift: int = 0) -> frozenset[tuple[str, str]]:
    """Find marks that do not mean what they say, because most objects of a class, or of the data set, have them.

    Annotation tools write `iscrowd: 1` for each mask that is stored as run lengths, also for a mask of a single object.

    Returns
    -------
    see `Conventions.objects`
    """
    marked, every = marks_by_class(contents, shift)
    by_mark: Counter[str] = Counter()
    for (mark, _), count in marked.items():
        by_mark[mark] += count
    usual = {mark for mark, count in by_mark.items() if count >= MOST_MARKED * every.total()}
    return frozenset(
        (mark, name)
        for (mark, name), count in marked.items()
        if mark in usual or (count >= FEW and count >= MOST_MARKED * every[name])
    )


def marks_by_class(contents: Sequence[Content], shift: int = 0) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """Numbers of annotations with each mark, by mark and class name; and of all annotations by class name."""
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
