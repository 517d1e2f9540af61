"""Reader for YOLO: a `data.yaml` with class names and image folders, and one text file of boxes or polygons per image."""

from pathlib import Path
from typing import Any

import yaml

from conditional_detr.data.formats.image_files import Fault, content_of, listed_images, text_of
from conditional_detr.data.formats.label_files import missing_labels
from conditional_detr.data.split_location import is_inside
from conditional_detr.errors import DataError
from conditional_detr.storage.json import without_surrogates

YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
MOST_BYTES = 2**20
CORNERS = 3  # minimum number of corners of a polygon
NO_LABELS = ("classes.txt", "notes.txt")  # text files of labelling tools that are not labels


def description(root: Path) -> Path | None:
    """The YAML file of a YOLO data set, or None."""
    return next((root / name for name in YAMLS if (root / name).is_file()), None)


def splits(file: Path) -> dict[str, list[Path]]:
    """Image folders or lists of images of each split.

    Paths are resolved as in ultralytics. They are relative to `path`, which is relative to the folder of the YAML file. A path
    that begins with ``../`` is also tried without it. All paths must lie inside the parent of the YAML file's folder.
    """
    content = _read(file)
    base = _base(content, file)
    found = {}
    for split in ("train", "val", "valid", "test"):
        given = content.get(split)
        names = [name for name in (given if isinstance(given, list) else [given]) if isinstance(name, str) and name]
        if names:
            found["valid" if split == "val" else split] = [_located(without_surrogates(name), base, file) for name in names]
    return found


def read(file: Path, sources: list[Path]) -> tuple[dict[str, Any], list[Fault]]:
    """Read a split. Returns its COCO content, with absolute file names, and the faults."""
    names = class_names(file)
    faults = [
        Fault(str(file), f"{source} does not exist", "nothing is changed; the path is skipped", "split-missing")
        for source in sources
        if not source.exists()
    ]

    around = file.absolute().parent.parent
    is_pose = "kpt_shape" in _read(file)

    def rows(image: Path, width: int, height: int) -> list[dict[str, Any]]:
        labels = label_file(image)
        return _boxes(labels, width, height, is_pose, faults) if is_inside(labels, around) else []

    images = [image for source in sources if source.exists() for image in listed_images(source)]
    faults += _labels_alone(sources, images) + missing_labels(images, label_file)
    categories = [{"id": i, "name": name} for i, name in sorted(names.items())]
    return content_of(images, rows, categories, around), faults


def _labels_alone(sources: list[Path], images: list[Path]) -> list[Fault]:
    """Faults for label files without an image."""
    folders = {label_file(source / "x").parent for source in sources if source.is_dir()}
    known = {label_file(image) for image in images}
    return [
        Fault(str(file), "there is no image for these labels", "the labels are left out", "annotation-orphan")
        for folder in sorted(folders)
        for file in sorted(folder.rglob("*.txt"))
        if file not in known and file.name not in NO_LABELS
    ]


def class_names(file: Path) -> dict[int, str]:
    """Class names by number, from `names` (a list or a mapping). If only `nc` is given, the numbers are the names."""
    content = _read(file)
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if names is None and isinstance(content.get("nc"), int):
        names = {i: str(i) for i in range(min(content["nc"], 100_000))}
    try:
        found = {int(i): name for i, name in dict(names).items()}  # type: ignore[arg-type]
    except (AttributeError, OverflowError, TypeError, ValueError):
        found = {}
    if not found or not all(isinstance(name, str | int | float) for name in found.values()):
        raise DataError(f"{file}: 'names' must be a list of class names, or a mapping from numbers to names")
    return {i: without_surrogates(str(name)) for i, name in found.items()}


def label_file(image: Path) -> Path:
    """The label file of an image.

    It lies in the path with the last `images/` replaced by `labels/`, or next to the image if it exists only there.
    """
    beside, parts = image.with_suffix(".txt"), list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            usual = Path(*parts).with_suffix(".txt")
            return beside if beside.exists() and not usual.exists() else usual
    return beside


def _boxes(file: Path, width: int, height: int, is_pose: bool, faults: list[Fault]) -> list[dict[str, Any]]:
    """Read the boxes of a label file, in px. Without a file there are no objects.

    In pose labels the box comes first, followed by keypoints, which are ignored.
    """
    try:
        lines = text_of(file).splitlines() if file.exists() else []
    except DataError as error:
        faults.append(Fault(str(file), str(error), "its boxes are left out"))
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            label, *values = (float(word) for word in line.split())
        except ValueError:
            faults.append(
                Fault(str(file), f"line {number} must contain only numbers, not {line.strip()[:60]!r}", "the line is left out")
            )
            continue
        box = _box(values[:4] if is_pose else values)
        if box is None:
            text = f"line {number} must be a class followed by four numbers or a polygon, not by {len(values)} numbers"
            faults.append(Fault(str(file), text, "the line is left out"))
            continue
        x, y, w, h = box
        rows.append({"category_id": label, "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]})
    return rows


def _box(values: list[float]) -> tuple[float, float, float, float] | None:
    """Box as centre x, centre y, width, height in [0, 1]. A polygon is replaced by its bounding box."""
    if len(values) == 4:
        return values[0], values[1], values[2], values[3]
    if len(values) < 2 * CORNERS or len(values) % 2:
        return None
    xs, ys = values[0::2], values[1::2]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DataError(f"{file} is too large for the YAML file of a data set: {file.stat().st_size} bytes")
        content = yaml.safe_load(text_of(file))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{file} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file} must contain a mapping with 'train', 'val' and 'names', not {type(content).__name__}")
    return content


def _base(content: dict[str, Any], file: Path) -> Path:
    given = content.get("path")
    base = file.parent / without_surrogates(given) if isinstance(given, str) and "\0" not in given else file.parent
    return base if base.is_dir() and is_inside(base, file.parent.parent) else file.parent


def _located(name: str, base: Path, file: Path) -> Path:
    candidates = [base / name, file.parent / name, file.parent / name.removeprefix("../")]
    if "\0" in name:
        raise DataError(f"{file}: {name[:60]!r} is not a valid path")
    source = next((source for source in candidates if source.exists()), candidates[0])
    if not is_inside(source, file.parent.parent):
        raise DataError(f"{file}: {name!r} lies outside the folder {file.parent.parent} and is not read")
    return source
