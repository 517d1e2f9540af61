"""Find the faults of a data set, within its splits and between them."""

from collections import Counter
from pathlib import Path

from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.data.annotations import mark_of
from conditional_detr.data.clean import clean, summary
from conditional_detr.data.discovery import SplitSource, by_usual_name, sources, unknown_layout
from conditional_detr.data.findings import ERROR, Finding
from conditional_detr.data.splits.together import class_differences, conventions_across, unlabelled_classes
from conditional_detr.doctor.annotated_size import is_resized, is_rotated
from conditional_detr.doctor.copies import ORDER, duplicates, leaks
from conditional_detr.doctor.examined import Examined, objects_by_class
from conditional_detr.doctor.image_scan import scan_images
from conditional_detr.errors import DataError, plural
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.inference.progress import Track, untracked

SMALL_CELLS = 0.5  # objects narrower than this many cells of the feature map are hard to detect
SMALL_FRACTION = 0.05  # minimum fraction of such objects for a finding
RARE_FRACTION = 0.01  # a class is rare below this fraction of the most frequent class's objects


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
    findings += _missing(splits) + duplicates(splits) + leaks(splits) + _classes(splits)
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
            findings.append(Finding("image-unreadable", split.name, file, None, scan.fault))
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
            findings.append(Finding("image-size", split.name, file, None, text, fix=fix))
    return findings


def _for_a_model(split: Examined, config: ModelConfig, preprocessor: Preprocessor) -> list[Finding]:
    """Find images with more objects than queries, and objects narrower than half a cell of the feature map."""
    images, rows = split.clean.images, [row for row in split.clean.annotations if mark_of(row) is None]
    findings = []
    for i, number in Counter(row["image"] for row in rows).items():
        if number > config.num_queries:
            text = f"has {number} objects, but the model can detect at most {config.num_queries} (its number of queries)"
            findings.append(Finding("too-many-objects", split.name, images[i]["file_name"], None, text))
    scales = [preprocessor.size_hw((image["height"], image["width"]))[0] / image["height"] for image in images]
    least = SMALL_CELLS * config.finest_stride
    small = [row for row in rows if min(row["bbox"][2:]) * scales[row["image"]] < least]
    if rows and len(small) >= SMALL_FRACTION * len(rows):
        text = (
            f"{len(small)} of {len(rows)} objects are narrower than {least:g} px (half a cell of the feature map) after "
            f"images are resized to {preprocessor.config.imgsz} px, e.g. in {images[small[0]['image']]['file_name']}"
        )
        findings.append(Finding("too-small-objects", split.name, None, None, text))
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
            findings.append(Finding("split-empty", split.name, split.source.location.file.name, None, text))
    return findings


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
                findings.append(Finding("class-imbalance", split.name, None, None, text))
    objects = {
        name: {category.name: objects_by_class(split)[category.name] for category in split.clean.categories}
        for name, split in splits.items()
    }
    for name, split in splits.items():
        if name != "train" and split.labelled is not None:
            findings += unlabelled_classes(name, split.labelled, objects.get("train", {}))
    return findings + class_differences(objects)


def is_ok(findings: list[Finding]) -> bool:
    """Whether there are no errors among the findings."""
    return not any(finding.severity == ERROR for finding in findings)
