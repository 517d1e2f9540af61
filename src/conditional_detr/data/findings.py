"""Findings: faults of a data set, each with a code, a severity and a fix."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from conditional_detr.errors import shortened_list

ERROR, WARNING = "error", "warning"
MAX_NAME_LENGTH = 300  # longest name that is printed, in characters


class Rule(NamedTuple):
    """Default severity of a fault, and how `doctor --fix` and `train` fix it.

    If the fix starts with "nothing", the copy is not changed and the fault is not logged in its `changes.json`.
    """

    severity: str
    fix: str


RULES = {
    "image-unreadable": Rule(ERROR, "the image is left out"),
    "image-missing": Rule(ERROR, "the image is left out"),
    "image-outside-folder": Rule(ERROR, "the image is left out"),
    "image-size": Rule(ERROR, "the image is left out"),
    "image-duplicate": Rule(WARNING, "the later image is left out"),
    "image-leak": Rule(ERROR, "the image is left out of the training split"),
    "image-spelling": Rule(WARNING, "nothing is changed; the file is read"),
    "image-unlisted": Rule(WARNING, "nothing is changed; add the images to the annotations if they belong to the data set"),
    "image-format": Rule(WARNING, "nothing is changed; convert the files to a supported format, or remove them"),
    "image-categories": Rule(ERROR, "the image is left out"),
    "image-empty-file": Rule(ERROR, "the image is left out"),
    "box-degenerate": Rule(ERROR, "the box is left out"),
    "box-outside": Rule(ERROR, "the box is left out"),
    "box-partly-outside": Rule(WARNING, "the box is clipped"),
    "box-not-finite": Rule(ERROR, "the box is left out"),
    "box-format": Rule(ERROR, "the boxes are converted"),
    "box-duplicate": Rule(WARNING, "the later box is left out"),
    "box-unlabelled": Rule(ERROR, "the box is left out"),
    "box-marked": Rule(WARNING, "nothing is changed; the boxes are left out of training. If they are objects, remove the mark"),
    "category-unknown": Rule(ERROR, "the box is left out"),
    "category-unused": Rule(WARNING, "the category is left out"),
    "category-duplicate": Rule(ERROR, "boxes get the first category of that name; a second name of an id is dropped"),
    "category-in-one-split": Rule(WARNING, "nothing is changed; use the same class names in all splits"),
    "annotation-orphan": Rule(ERROR, "the annotation is left out"),
    "annotation-unreadable": Rule(ERROR, "the image is left out with its labels"),
    "annotation-encoding": Rule(WARNING, "nothing is changed; save the files as UTF-8"),
    "annotation-id-duplicate": Rule(ERROR, "the later annotation gets a new id"),
    "too-many-objects": Rule(WARNING, "nothing is changed; train with more queries: --set model.num_queries=N"),
    "too-small-objects": Rule(WARNING, "nothing is changed; train with a larger --imgsz"),
    "class-imbalance": Rule(WARNING, "nothing is changed; add images of the rare class"),
    "labelled-categories": Rule(WARNING, "nothing is changed; correct the field"),
    "label-columns": Rule(WARNING, "nothing is changed; the number is ignored"),
    "labels-missing": Rule(WARNING, "nothing is changed; the images are treated as images without objects"),
    "split-empty": Rule(WARNING, "nothing is changed; add images with boxes to the split"),
    "split-missing": Rule(WARNING, "nothing is changed; training needs train and valid: `cdetr data split` makes them"),
}

# Codes of faults for which a box is left out.
LOSES_BOX = {
    "box-degenerate",
    "box-outside",
    "box-not-finite",
    "box-duplicate",
    "box-unlabelled",
    "category-unknown",
    "annotation-orphan",
}
# Codes of faults of a whole split. A summary shows their messages.
OF_A_SPLIT = {"box-marked", "category-in-one-split", "image-unlisted", "labels-missing"}


@dataclass(frozen=True)
class Finding:
    """One fault of a data set.

    Attributes
    ----------
    code : a key of `RULES`
    split : name of the split, as spelled in the data set; None for a fault of the whole data set
    file : image or annotation file with the fault, as spelled in the data set
    annotation_id : id of the annotation, as in the file
    message : description of the fault
    severity, fix : defaults are in `RULES`
    category : name of the class, for a fault of a whole class; not part of the JSON output
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
        """Whether a listed image cannot be used because of the fault."""
        is_about_image = self.code.startswith("image-") or self.code == "annotation-unreadable"
        return is_about_image and self.code != "image-leak" and self.severity == ERROR

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for JSON output. A NaN or infinite id is written as a string, because JSON has no such numbers."""
        odd = isinstance(self.annotation_id, float) and not math.isfinite(self.annotation_id)
        fields = asdict(self) | ({"annotation_id": str(self.annotation_id)} if odd else {})
        return {key: value for key, value in fields.items() if key != "category"}


def counted(findings: Iterable[Finding], named: int = 3) -> list[str]:
    """Summarise findings in one line per code and fix, the most frequent first: number, up to `named` places, and fix.

    Findings about a whole split come first, each with its message.
    """
    findings = list(findings)
    lines = [f"{each.code}: {each.message}: {each.fix}" for each in findings if each.code in OF_A_SPLIT]
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.code not in OF_A_SPLIT:
            groups.setdefault((finding.code, finding.fix), []).append(finding)
    for (code, fix), found in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        names = list(dict.fromkeys(where(finding) for finding in found))
        lines.append(f"{code}: {len(found)} ({shortened_list(names, named)}): {fix}")
    return lines


def where(finding: Finding) -> str:
    """Return the file (or split) and annotation id of a finding as printable text of at most `MAX_NAME_LENGTH` characters."""
    parts = [str(finding.file)] if finding.file is not None else [finding.split or "the data set"]
    if finding.annotation_id is not None:
        parts.append(f"annotation {finding.annotation_id}")
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(parts))[:MAX_NAME_LENGTH]
