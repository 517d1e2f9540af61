"""Names of splits: train, valid and test, and their usual variants."""

import re

SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "val", "validation", "validate", "dev", "development", "eval"),
    "test": ("test", "testing", "tst"),
}
USUAL = {other: name for name, others in SPLIT_NAMES.items() for other in others}


def usual_split(name: str) -> str | None:
    """Return train, valid or test for a variant of the name, such as "Train", "val2017" or "dev"; otherwise None."""
    words = words_of(name)
    return USUAL.get(words[0]) if len(words) == 1 else None


def split_in(name: str) -> str | None:
    """Return the split that a file name contains, e.g. train for "coco_train_v2". None if it contains no split or several."""
    found = {USUAL[word] for word in words_of(name) if word in USUAL}
    return found.pop() if len(found) == 1 else None


def words_of(name: str) -> list[str]:
    """Return the words of a name in lower case, without digits and punctuation."""
    return re.findall(r"[^\W\d_]+", name.casefold())
