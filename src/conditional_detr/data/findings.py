"""What can be wrong with a data set: a code for each fault, how grave it is, and what is done about it."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from conditional_detr.errors import shortened_list

ERROR, WARNING = "error", "warning"
MOST_LETTERS = 300  # of a name


class Rule(NamedTuple):
    """How grave a fault is, and what `doctor --fix` and `train` do about it."""

    severity: str
    fix: str


RULES = {
    "image-unreadable": Rule(ERROR, "the image is left out"),
    "image-missing": Rule(ERROR, "the image is left out"),
    "image-outside-folder": Rule(ERROR, "the image is left out"),
    "image-size": Rule(ERROR, "the image is left out"),
    "image-duplicate": Rule(WARNING, "the later one is left out"),
    "image-leak": Rule(ERROR, "the image is left out of the split that is trained on"),
    "image-empty-file": Rule(ERROR, "the image is left out"),
    "box-degenerate": Rule(ERROR, "the box is left out"),
    "box-outside": Rule(ERROR, "the box is left out"),
    "box-partly-outside": Rule(WARNING, "the box is clipped"),
    "box-not-finite": Rule(ERROR, "the box is left out"),
    "box-format": Rule(ERROR, "the boxes are converted"),
    "box-duplicate": Rule(WARNING, "the later box is left out"),
    "category-unknown": Rule(ERROR, "the box is left out"),
    "category-unused": Rule(WARNING, "the category is left out"),
    "category-duplicate": Rule(ERROR, "its boxes go to the first of that name; a second name of an id is dropped"),
    "annotation-orphan": Rule(ERROR, "the annotation is left out"),
    "annotation-id-duplicate": Rule(ERROR, "the later annotation gets a new id"),
    "too-many-objects": Rule(WARNING, "nothing: train with more queries, --set model.num_queries=N"),
    "too-small-objects": Rule(WARNING, "nothing: train with a larger --imgsz"),
    "class-imbalance": Rule(WARNING, "nothing: more images of the rare class help"),
    "split-empty": Rule(WARNING, "nothing: it needs images"),
    "split-missing": Rule(WARNING, "nothing: train needs the splits train and valid"),
}


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes
    ----------
    code : a key of `RULES`
    split : the split's name as its folder has it, or None where it is of the whole data set
    file : the image or the annotation file that it concerns, as the data set names it
    annotation_id : of the annotation, as the file has it
    message : what is wrong, in words
    severity, fix : by default as `RULES` says
    category : the name of the class that it concerns as a whole; not told
    """

    code: str
    split: str | None
    file: str | None
    annotation_id: Any
    message: str
    severity: str = ""
    fix: str = ""
    category: str | None = None

    def __post_init__(self) -> None:
        rule = RULES[self.code]
        object.__setattr__(self, "severity", self.severity or rule.severity)
        object.__setattr__(self, "fix", self.fix or rule.fix)

    @property
    def loses_image(self) -> bool:
        """Whether an image that is listed cannot be used."""
        return self.code.startswith("image-") and self.code != "image-leak" and self.severity == ERROR

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, which has no word for an id that is not finite."""
        odd = isinstance(self.annotation_id, float) and not math.isfinite(self.annotation_id)
        fields = asdict(self) | ({"annotation_id": str(self.annotation_id)} if odd else {})
        return {key: value for key, value in fields.items() if key != "category"}


def counted(findings: Iterable[Finding], named: int = 3) -> list[str]:
    """A line a code, the most frequent first: how often, where for example, and what is done."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.code, []).append(finding)
    lines = []
    for code, found in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        names = list(dict.fromkeys(where(finding) for finding in found))
        lines.append(f"{code}: {len(found)} ({shortened_list(names, named)}): {found[0].fix}")
    return lines


def where(finding: Finding) -> str:
    """File and annotation, for people: in one line, and not longer than one."""
    parts = [str(finding.file)] if finding.file is not None else [finding.split or "the data set"]
    if finding.annotation_id is not None:
        parts.append(f"annotation {finding.annotation_id}")
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(parts))[:MOST_LETTERS]
