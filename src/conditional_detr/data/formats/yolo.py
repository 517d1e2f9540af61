"""YOLO: a `data.yaml` that names classes and picture folders; beside each picture a text file of boxes or polygons."""

from pathlib import Path
from typing import Any

import yaml

from conditional_detr.data.clean import is_inside
from conditional_detr.data.formats.pictures import content_of, listed_pictures
from conditional_detr.errors import DataError

YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
MOST_BYTES = 2**20
CORNERS = 3  # of a polygon, at least


def description(root: Path) -> Path | None:
    """The YAML file of a YOLO data set, if there is one."""
    return next((root / name for name in YAMLS if (root / name).is_file()), None)


def splits(file: Path) -> dict[str, list[Path]]:
    """Every split's folders or lists of pictures.

    As ultralytics reads it: relative to `path`, which is relative to the YAML file's folder; a path that begins with ``../`` is
    also looked for without it. At most in the parent of the YAML's folder.
    """
    content = _read(file)
    base = _base(content, file)
    found = {}
    for split in ("train", "val", "valid", "test"):
        given = content.get(split)
        names = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        if names:
            found["valid" if split == "val" else split] = [_located(str(name), base, file) for name in names]
    return found


def read(file: Path, places: list[Path]) -> tuple[dict[str, Any], list[str]]:
    """One split as a COCO content, and what could not be read of its labels, a line each. File names are absolute."""
    names = class_names(file)
    faults: list[str] = []

    def rows(picture: Path, width: int, height: int) -> list[dict[str, Any]]:
        return _boxes(label_file(picture), width, height, faults)

    pictures = [picture for place in places for picture in listed_pictures(place)]
    categories = [{"id": i, "name": name} for i, name in sorted(names.items())]
    return content_of(pictures, rows, categories, file.absolute().parent.parent), faults


def class_names(file: Path) -> dict[int, str]:
    """Class names by number: `names` as a list or a mapping, or numbers where only `nc` is given."""
    content = _read(file)
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if names is None and isinstance(content.get("nc"), int):
        names = {i: str(i) for i in range(min(content["nc"], 100_000))}
    try:
        return {int(i): str(name) for i, name in dict(names).items()}  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{file}: 'names' must be a list of class names, or a mapping from numbers to names") from None


def label_file(picture: Path) -> Path:
    """The text file of a picture: in `labels/` where the last `images/` is, else beside it."""
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            return Path(*parts).with_suffix(".txt")
    return picture.with_suffix(".txt")


def _boxes(file: Path, width: int, height: int, faults: list[str]) -> list[dict[str, Any]]:
    """A missing file means a picture without objects."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}")
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            label, *values = (float(word) for word in line.split())
        except ValueError:
            faults.append(f"{file}, line {number} must be numbers, not {line.strip()[:60]!r}")
            continue
        box = _box(values)
        if box is None:
            faults.append(f"{file}, line {number} must hold a class and four numbers, or a polygon, not {len(values)} numbers")
            continue
        x, y, w, h = box
        rows.append({"category_id": label, "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]})
    return rows


def _box(values: list[float]) -> tuple[float, float, float, float] | None:
    """Centre and size, in [0, 1]; a polygon becomes its box."""
    if len(values) == 4:
        return values[0], values[1], values[2], values[3]
    if len(values) < 2 * CORNERS or len(values) % 2:
        return None
    xs, ys = values[0::2], values[1::2]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DataError(f"{file} is larger than a description of a data set can be: {file.stat().st_size} bytes")
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise DataError(f"{file} is no valid YAML: {reason}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file} must hold a mapping with 'train', 'val' and 'names', not {type(content).__name__}")
    return content


def _base(content: dict[str, Any], file: Path) -> Path:
    given = content.get("path")
    base = file.parent / given if isinstance(given, str) and given else file.parent
    return base if base.is_dir() and is_inside(base, file.parent.parent) else file.parent


def _located(name: str, base: Path, file: Path) -> Path:
    candidates = [base / name, file.parent / name, file.parent / name.removeprefix("../")]
    place = next((place for place in candidates if place.exists()), candidates[0])
    if not is_inside(place, file.parent.parent):
        raise DataError(f"{file}: {name!r} leaves the folder {file.parent.parent}; it is not read")
    return place
