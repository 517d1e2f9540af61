"""Find the faults of a data set, within its splits and between them."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.data.annotations import mark_of
from conditional_detr.data.clean import Clean, clean, summary
from conditional_detr.data.discovery import SplitSource, by_usual_name, sources, unknown_layout
from conditional_detr.data.findings import ERROR, WARNING, Finding
from conditional_detr.data.splits.summary import Summary
from conditional_detr.data.splits.together import class_differences, conventions_across
from conditional_detr.doctor.image_scan import ImageScan, near_pairs, scan_images
from conditional_detr.errors import DataError, plural
from conditional_detr.images.header import ROTATED
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.inference.progress import Track, untracked

ORDER = ("train", "valid", "test")  # an image in two splits is removed from the one that comes first here
SMALL_CELLS = 0.5  # objects narrower than this many cells of the feature map are hard to detect
SMALL_FRACTION = 0.05  # minimum fraction of such objects for a finding
RARE_FRACTION = 0.01  # a class is rare below this fraction of the most frequent class's objects


class Examined(NamedTuple):
    """A split and the results of its checks.

    Attributes
    ----------
    source : the split on disk
    clean : its usable images and annotations
    scans : results of scanning the images of `clean`
    skipped : positions in `clean.images` of images that are left out of a copy
    summary : counts of the split, as training prints them
    """

    source: SplitSource
    clean: Clean
    scans: list[ImageScan]
    skipped: set[int]
    summary: Summary


def examine(
    folder: str | Path, config: ModelConfig, image: PreprocessorConfig, track: Track = untracked
) -> tuple[dict[str, Examined], list[Finding]]:
    """Check every split of a data set, also against the limits of a model.

    Parameters
    ----------
    folder : data set in any supported format
    config, image : configuration of the model and its preprocessing. Number of queries, stride and input size are used
    track : function that shows progress

    Raises
    ------
    DataError : the folder is not a data set
    """
    splits, findings = as_written(folder, track)
    for split in splits.values():
        findings += _for_a_model(split, config, Preprocessor(image))
    findings += _missing(splits) + _duplicates(splits) + leaks(splits) + _classes(splits)
    return splits, findings


def as_written(folder: str | Path, track: Track = untracked) -> tuple[dict[str, Examined], list[Finding]]:
    """Read every split and all its images. Returns the splits, and findings for unusable annotations and images."""
    splits: dict[str, Examined] = {}
    findings: list[Finding] = []
    read = {name: (source, *source.read()) for name, source in by_usual_name(_sources(folder)).items()}
    conventions = conventions_across([(content, source.location) for source, content, _ in read.values()])
    for name, (source, content, faults) in read.items():
        cleaned = clean(content, source.location, conventions)
        scans = scan_images([image["path"] for image in cleaned.images], track)
        split = Examined(source, cleaned, scans, set(), summary(cleaned, faults))
        splits[name] = split
        findings += faults + cleaned.findings + _image_faults(split)
    return splits, findings


def _sources(folder: str | Path) -> dict[str, SplitSource]:
    found = sources(Path(folder))
    if not found and not Path(folder).exists():
        raise DataError(f"{folder} does not exist: the data set must be a folder, or the YAML file of a YOLO data set")
    if not found:
        raise unknown_layout(Path(folder))
    return found


def _name(split: Examined) -> str:
    return split.source.location.split


def _image_faults(split: Examined) -> list[Finding]:
    """Find images that cannot be read, or whose size differs from the annotations.

    An image with a different size is assumed to have been resized only if all boxes of the split lie inside the annotated
    sizes. Otherwise the annotated sizes themselves are probably wrong.
    """
    findings = []
    fit = not any(finding.code in ("box-outside", "box-partly-outside") for finding in split.clean.findings)
    for i, (image, scan) in enumerate(zip(split.clean.images, split.scans, strict=True)):
        file = image["file_name"]
        if scan.fault is not None:
            split.skipped.add(i)
            findings.append(Finding("image-unreadable", _name(split), file, None, scan.fault))
        elif (listed_size := (image["width"], image["height"])) != (scan.width, scan.height):
            text, fix = f"is {scan.width} x {scan.height} px, but its annotations say {listed_size[0]} x {listed_size[1]}", ""
            if is_rotated(image, scan):
                text += f": they were made before the EXIF rotation (orientation {scan.orientation})"
                fix = "its boxes are rotated too"
            elif fit and is_resized(image, scan):
                text += ": it was probably resized later"
                fix = "its boxes are resized too"
            else:
                split.skipped.add(i)
            findings.append(Finding("image-size", _name(split), file, None, text, fix=fix))
    return findings


def is_rotated(image: dict[str, Any], scan: ImageScan) -> bool:
    """Whether an image's annotations were made before its EXIF rotation."""
    return (image["width"], image["height"]) == (scan.height, scan.width) and scan.orientation in ROTATED


def is_resized(image: dict[str, Any], scan: ImageScan) -> bool:
    """Whether an image differs from the annotated size but has the same aspect ratio (within a pixel)."""
    return abs(image["width"] * scan.height / image["height"] - scan.width) < 1 and not is_rotated(image, scan)


def _for_a_model(split: Examined, config: ModelConfig, preprocessor: Preprocessor) -> list[Finding]:
    """Find images with more objects than queries, and objects narrower than half a cell of the feature map."""
    images, rows = split.clean.images, [row for row in split.clean.annotations if mark_of(row) is None]
    findings = []
    for i, number in Counter(row["image"] for row in rows).items():
        if number > config.num_queries:
            text = f"has {number} objects, but the model can detect at most {config.num_queries} (its number of queries)"
            findings.append(Finding("too-many-objects", _name(split), images[i]["file_name"], None, text))
    scales = [preprocessor.size_hw((image["height"], image["width"]))[0] / image["height"] for image in images]
    least = SMALL_CELLS * config.finest_stride
    small = [row for row in rows if min(row["bbox"][2:]) * scales[row["image"]] < least]
    if rows and len(small) >= SMALL_FRACTION * len(rows):
        text = (
            f"{len(small)} of {len(rows)} objects are narrower than {least:g} px (half a cell of the feature map) after "
            f"images are resized to {preprocessor.config.imgsz} px, e.g. in {images[small[0]['image']]['file_name']}"
        )
        findings.append(Finding("too-small-objects", _name(split), None, None, text))
    return findings


def _missing(splits: dict[str, Examined]) -> list[Finding]:
    findings = [
        Finding("split-missing", name, None, None, f"there is no split {name!r}") for name in ORDER[:2] if name not in splits
    ]
    for split in splits.values():
        text = "has no usable image" if len(split.skipped) == len(split.clean.images) else ""
        if not text and not objects_by_class(split):
            text = "has no usable box"
        if text:
            findings.append(Finding("split-empty", _name(split), split.source.location.file.name, None, text))
    return findings


def _duplicates(splits: dict[str, Examined]) -> list[Finding]:
    """Find identical image files within a split. The image with the most boxes is kept."""
    findings = []
    for split in splits.values():
        images, boxes = split.clean.images, Counter(row["image"] for row in split.clean.annotations)
        same: dict[bytes, list[int]] = {}
        for i, scan in enumerate(split.scans):
            if i not in split.skipped:
                same.setdefault(scan.digest, []).append(i)
        for copies in same.values():
            kept = max(copies, key=lambda i: (boxes[i], -i))
            for i in (i for i in copies if i != kept):
                split.skipped.add(i)
                text = f"is the same file as {images[kept]['file_name']}"
                text += f", which has {plural(boxes[kept], 'box')}; this one has {boxes[i]}" if boxes[i] != boxes[kept] else ""
                fix = "" if i > kept else "the image with fewer boxes is left out"
                findings.append(Finding("image-duplicate", _name(split), images[i]["file_name"], None, text, fix=fix))
    return findings


def leaks(splits: dict[str, Examined]) -> list[Finding]:
    """Find images of a later split that are also in an earlier one: identical files, or images that look the same."""
    findings = []
    names = [name for name in ORDER if name in splits]
    for k, early in enumerate(names):
        for late in names[k + 1 :]:
            findings += _leaks_between(splits[early], splits[late])
    return findings


def _leaks_between(early: Examined, late: Examined) -> list[Finding]:
    findings = []
    position_of = {scan.digest: i for i, scan in enumerate(early.scans) if i not in early.skipped}
    for j, (image, scan) in enumerate(zip(late.clean.images, late.scans, strict=True)):
        if j not in late.skipped and (i := position_of.get(scan.digest)) is not None:
            early.skipped.add(i)
            text = f"is the same file as {early.clean.images[i]['file_name']} in {_name(early)}"
            fix = f"the image is left out of {_name(early)}"
            findings.append(Finding("image-leak", _name(late), image["file_name"], None, text, fix=fix))
    for j, i in near_pairs(*(_left(split) for split in (late, early))):
        text = f"looks nearly the same as {early.clean.images[i]['file_name']} in {_name(early)}"
        fix = "nothing is changed; look at both images"
        findings.append(Finding("image-leak", _name(late), late.clean.images[j]["file_name"], None, text, WARNING, fix))
    return findings


def _left(split: Examined) -> list[ImageScan]:
    """Return the scans of the images of a split. Images that are left out are marked as unreadable, so that they match none."""
    return [ImageScan("left out") if i in split.skipped else scan for i, scan in enumerate(split.scans)]


def _classes(splits: dict[str, Examined]) -> list[Finding]:
    """Find classes without an object in any split, and classes that are rare in the training split."""
    findings = []
    used = {name for split in splits.values() for name in objects_by_class(split)}
    listed = {c.name for split in splits.values() for c in split.clean.categories}
    for name in sorted(listed - used) if used else ():
        text = f"no split has an object of the category {name!r}"
        findings.append(Finding("category-unused", None, None, None, text, category=name))
    if "train" in splits:
        split = splits["train"]
        counts = objects_by_class(split)
        most = max(counts.values(), default=0)
        for name in sorted(used):
            if 0 < counts[name] < RARE_FRACTION * most:
                text = f"{name!r} has {plural(counts[name], 'object')} in this split, the most frequent class has {most}"
                findings.append(Finding("class-imbalance", _name(split), None, None, text))
    objects = {
        name: {category.name: objects_by_class(split)[category.name] for category in split.clean.categories}
        for name, split in splits.items()
    }
    return findings + class_differences(objects)


def objects_by_class(split: Examined) -> Counter[str]:
    """Number of objects of each class, in usable images."""
    name_of = {category.id: category.name for category in split.clean.categories}
    rows = (row for row in split.clean.annotations if row["image"] not in split.skipped and mark_of(row) is None)
    return Counter(name_of[row["category_id"]] for row in rows)


def is_ok(findings: list[Finding]) -> bool:
    """Whether there are no errors among the findings."""
    return not any(finding.severity == ERROR for finding in findings)
