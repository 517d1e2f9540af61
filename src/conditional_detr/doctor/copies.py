"""Find images that are in a data set more than once: in one split, or in several splits."""

from collections import Counter

from conditional_detr.data.findings import WARNING, Finding
from conditional_detr.doctor.annotated_size import to_current
from conditional_detr.doctor.examined import Examined
from conditional_detr.doctor.image_scan import ImageScan, near_pairs
from conditional_detr.errors import plural

JOINED = "the images are joined, with the boxes of both"
ORDER = ("train", "valid", "test")  # an image in two splits is removed from the one that comes first here


def duplicates(splits: dict[str, Examined]) -> list[Finding]:
    """Find identical image files within a split, and keep the one with the most boxes. Changes `splits` in place.

    If other classes are labelled in a copy, their boxes go to the image that is kept.
    """
    findings = []
    for key, split in splits.items():
        images, boxes = split.clean.images, Counter(row["image"] for row in split.clean.annotations)
        same: dict[bytes, list[int]] = {}
        for i in split.used:
            same.setdefault(split.scans[i].digest, []).append(i)
        for copies in same.values():
            kept = max(copies, key=lambda i: (boxes[i], -i))
            for i in (i for i in copies if i != kept):
                text = f"is the same file as {images[kept]['file_name']}"
                joined = with_labels_of(splits[key], kept, splits[key], i)
                if joined is None:
                    text += (
                        f", which has {plural(boxes[kept], 'box')}; this one has {boxes[i]}" if boxes[i] != boxes[kept] else ""
                    )
                    fix = "" if i > kept else "the image with fewer boxes is left out"
                else:
                    splits[key] = joined
                    text += ", in which other classes are labelled"
                    fix = JOINED
                splits[key].skipped.add(i)
                findings.append(Finding("image-duplicate", split.name, images[i]["file_name"], None, text, fix=fix))
    return findings


def leaks(splits: dict[str, Examined]) -> list[Finding]:
    """Find images of a later split that are also in an earlier one: identical files, or images that look the same.

    Identical files are left out of the earlier split. Changes `splits` in place, as `duplicates` does.
    """
    findings = []
    names = [name for name in ORDER if name in splits]
    for k, early in enumerate(names):
        for late in names[k + 1 :]:
            findings += _leaks_between(splits, early, late)
    return findings


def _leaks_between(splits: dict[str, Examined], early_name: str, late_name: str) -> list[Finding]:
    findings = []
    early, late = splits[early_name], splits[late_name]
    position_of = {early.scans[i].digest: i for i in early.used}
    for j in late.used:
        if (i := position_of.get(late.scans[j].digest)) is not None:
            early.skipped.add(i)
            text = f"is the same file as {early.clean.images[i]['file_name']} in {early.name}"
            fix = f"the image is left out of {early.name}"
            if (joined := with_labels_of(splits[late_name], j, early, i)) is not None:
                splits[late_name] = joined
                text += ", where other classes are labelled"
                fix += "; its labels of these classes are joined"
            findings.append(Finding("image-leak", late.name, late.clean.images[j]["file_name"], None, text, fix=fix))
    for j, i in near_pairs(*(_left(split) for split in (late, early))):
        text = f"looks nearly the same as {early.clean.images[i]['file_name']} in {early.name}"
        fix = "nothing is changed; look at both images"
        findings.append(Finding("image-leak", late.name, late.clean.images[j]["file_name"], None, text, WARNING, fix))
    return findings


def _left(split: Examined) -> list[ImageScan]:
    """Return the scans of the images of a split. Images that are left out are marked as unreadable, so that they match none."""
    return [ImageScan("left out") if i in split.skipped else scan for i, scan in enumerate(split.scans)]


def with_labels_of(split: Examined, kept: int, other: Examined, copy: int) -> Examined | None:
    """Add the labels of a copy of an image, as far as their classes are not labelled in the image.

    Parameters
    ----------
    split, kept : a split, and the position of the image in it
    other, copy : the same or another split, and the position of the identical file in it

    Returns
    -------
    the split with the added boxes; None if the copy labels no other classes, or if the splits have different categories
    """
    own, labelled = (side.clean.images[i]["labelled"] for side, i in ((split, kept), (other, copy)))
    if own is None or split.clean.categories != other.clean.categories:
        return None
    every = frozenset(category.id for category in split.clean.categories)
    added = (every if labelled is None else labelled) - own
    if not added:
        return None
    images, scan = [*split.clean.images], split.scans[kept]
    rows = [to_current(row, images[kept], scan) if row["image"] == kept else row for row in split.clean.annotations]
    taken = [row for row in other.clean.annotations if row["image"] == copy and row["category_id"] in added]
    number = 1 + max((row["id"] for row in rows), default=0)
    rows += [
        to_current(row, other.clean.images[copy], scan) | {"image": kept, "id": id_} for id_, row in enumerate(taken, number)
    ]
    size = {"width": scan.width, "height": scan.height}
    images[kept] = images[kept] | size | {"labelled": None if own | added == every else own | added}
    return split._replace(clean=split.clean._replace(images=images, annotations=rows))
