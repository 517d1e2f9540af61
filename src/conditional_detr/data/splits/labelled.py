"""The categories that are labelled in an image: its field `labelled_category_ids`."""

import difflib
from collections import Counter
from typing import Any

from conditional_detr.data.annotations import Row, as_id, image_key
from conditional_detr.errors import shortened_list

FIELD = "labelled_category_ids"
NEAR = 0.85  # similarity of a field's name from which on it is probably meant
# Fields of LVIS with the same purpose. They are not read.
OF_LVIS = ("neg_category_ids", "not_exhaustive_category_ids")


class Unreadable(ValueError):
    """The field of an image is not a list."""


def labelled_categories(row: Row, category_of: dict[int | None, int]) -> tuple[frozenset[int] | None, str]:
    """Return the categories that are labelled in an image, and what is odd about its field `labelled_category_ids`.

    None stands for all categories: the image has no such field, or it lists all.

    Raises
    ------
    Unreadable : the field is not a list
    """
    written = row.get(FIELD)
    if written is None:
        return None, ""
    if not isinstance(written, list):
        raise Unreadable(f"has {FIELD} that are not a list of category ids: {str(written)[:80]}")
    ids = [as_id(value) if isinstance(value, int | float | str) else None for value in written]
    unknown = [str(value) for value, id_ in zip(written, ids, strict=True) if id_ not in category_of]
    labelled = frozenset(category_of[id_] for id_ in ids if id_ in category_of)
    text = ""
    if unknown:
        text = f"has {FIELD} that are not ids of categories: {shortened_list(unknown, 5)}"
    elif not labelled:
        text = f"has an empty list {FIELD}: no class is labelled in it, so it is no example of background either"
    return (None if labelled >= set(category_of.values()) else labelled), text


def misspelt_field(content: dict[str, Any]) -> str:
    """What is wrong if images, or the file, have a field that is probably meant to be `labelled_category_ids`; else ""."""
    keys = Counter(key for row in content["images"] for key in row)
    if FIELD in content:
        return f"{FIELD} is a field of each image, not of the file: it is not read"
    if FIELD in keys:
        return ""
    for key in map(str, keys):
        if key in OF_LVIS:
            return f"images have the field {key!r} of LVIS, which is not read: list the labelled categories in {FIELD}"
        if difflib.SequenceMatcher(None, key.lower(), FIELD).ratio() >= NEAR:
            return f"images have the field {key!r}, which is not read: did you mean {FIELD}?"
    return ""


def union(labelled: frozenset[int] | None, other: frozenset[int] | None) -> frozenset[int] | None:
    """The categories that are labelled in one of two sets of labels; None = all."""
    return None if labelled is None or other is None else labelled | other


def shifted(category_of: dict[int | None, int], shift: int) -> dict[int | None, int]:
    """The categories by ids that `shift` must be added to."""
    return {None if id_ is None else id_ - shift: category for id_, category in category_of.items()}


def lists_are_shifted(content: dict[str, Any], shift: int) -> bool:
    """Whether `labelled_category_ids` of the images are off by one as the ids of the annotations are.

    They are if more boxes are in the list of their image as both are written than after a shift of the boxes alone.
    """
    lists = {image_key(row.get("id")): row.get("labelled_category_ids") for row in content["images"]}
    same = moved = 0
    for row in content["annotations"] if shift else ():
        ids, id_ = lists.get(image_key(row.get("image_id"))), as_id(row.get("category_id"))
        if isinstance(ids, list) and isinstance(id_, int):
            same, moved = same + (id_ in ids), moved + (id_ + shift in ids)
    return same > moved
