"""Names of splits as tools write them."""

import re

SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "val", "validation", "validate", "dev", "development", "eval"),
    "test": ("test", "testing", "tst"),
}
USUAL = {other: name for name, others in SPLIT_NAMES.items() for other in others}


def usual_split(name: str) -> str | None:
    """train, valid or test for a split's name in any spelling, such as "Train", "val2017" or "dev"; else None."""
    words = words_of(name)
    return USUAL.get(words[0]) if len(words) == 1 else None


def split_in(name: str) -> str | None:
    """The split that one word of a file name names, e.g. train for "coco_train_v2"; None if none or several do."""
    found = {USUAL[word] for word in words_of(name) if word in USUAL}
    return found.pop() if len(found) == 1 else None


def words_of(name: str) -> list[str]:
    """The words of a name in lower case, without digits and signs."""
    return re.findall(r"[^\W\d_]+", name.casefold())
