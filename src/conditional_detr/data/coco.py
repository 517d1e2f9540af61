"""COCO folders: where they keep things, and one split's annotations in flat arrays."""

import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conditional_detr.config import read_json_object
from conditional_detr.errors import DataError

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
ROBOFLOW_FILE = "_annotations.coco.json"


@dataclass(frozen=True)
class Category:
    """A class as its data set knows it."""

    id: int
    name: str


@dataclass(frozen=True)
class CocoIndex:
    """One split, in arrays: memory does not grow with use, and workers share it.

    Attributes
    ----------
    file : the annotation file
    image_ids, sizes_hw : int64 [I], [I, 2] px, as the file says
    paths : [I], of the pictures
    first : int64 [I + 1], image i owns rows first[i] to first[i + 1] of the following
    boxes_xyxy : float32 [A, 4] px, inside their picture, with an area
    labels : int64 [A], class indices: positions in `categories`
    categories : ordered by id
    report : what was left out or changed, a line each
    """

    file: Path
    image_ids: np.ndarray
    sizes_hw: np.ndarray
    paths: list[str]
    first: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    categories: list[Category]
    report: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.image_ids)

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float32 [M, 4] xyxy px and labels int64 [M] of image i; crowds are left out."""
        rows = slice(self.first[i], self.first[i + 1])
        return self.boxes_xyxy[rows], self.labels[rows]

    def check_size(self, i: int, size_hw: tuple[int, int]) -> None:
        """A decoded picture must be as large as the file says, else its boxes lie somewhere else.

        Raises
        ------
        DataError
        """
        said = tuple(int(side) for side in self.sizes_hw[i])
        if said != tuple(size_hw):
            raise DataError(
                f"{self.paths[i]} is {size_hw[1]} x {size_hw[0]} px after EXIF rotation, but {self.file} says "
                f"{said[1]} x {said[0]}: its boxes cannot be trusted"
            )


def find_split(folder: str | Path, split: str) -> tuple[Path, Path]:
    """The annotation file of a split and the folder its file names start from.

    Two layouts are known: ``SPLIT/_annotations.coco.json`` beside the pictures (Roboflow), and
    ``annotations/instances_SPLIT*.json`` with pictures in ``SPLIT*/`` or ``images/SPLIT*/`` (classic).

    Raises
    ------
    DataError : says what was looked for and which splits are there
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is no folder: --data must be a COCO data set ({_layouts()})")
    found = splits(root)
    names = SPLIT_NAMES.get(split, (split,))
    for name in names:
        if name in found:
            return found[name]
    have = f"It has: {', '.join(sorted(found))}." if found else "Nothing there looks like one of the known layouts."
    raise DataError(f"{root} has no split {split!r} ({_layouts()}). {have}")


def _layouts() -> str:
    return f"SPLIT/{ROBOFLOW_FILE}, or annotations/instances_SPLIT.json with the pictures in SPLIT/ or images/SPLIT/"


def splits(root: Path) -> dict[str, tuple[Path, Path]]:
    """Every split of a data set: name → annotation file, picture folder."""
    found = {file.parent.name: (file, file.parent) for file in sorted(root.glob(f"*/{ROBOFLOW_FILE}"))}
    for file in sorted((root / "annotations").glob("instances_*.json")):
        stem = file.stem.removeprefix("instances_")
        folders = [root / stem, root / "images" / stem, root / "images", root]
        found.setdefault(stem.rstrip("0123456789"), (file, next(f for f in folders if f.is_dir())))
    return found


def read_json(file: Path) -> dict[str, Any]:
    """A COCO file as a dict with its three lists, of dicts each."""
    content = read_json_object(file, DataError)
    check_lists(content, str(file))
    return content


def check_lists(content: dict[str, Any], origin: str) -> None:
    """A COCO file has three lists of objects."""
    for key in ("images", "annotations", "categories"):
        rows = content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{origin} is no COCO file: {key!r} must be a list of objects")


def load_split(folder: str | Path, split: str) -> CocoIndex:
    """One split of a data set. What cannot be used is left out, counted and said in `report`."""
    file, pictures = find_split(folder, split)
    content = read_json(file)
    categories = _categories(content["categories"], file)
    images = _images(content["images"], pictures, Path(folder), file)
    if not images:
        raise DataError(f"{file} lists no images")
    rows, report = _annotations(content["annotations"], images, categories)
    order = np.argsort(rows["image"], kind="stable")
    return CocoIndex(
        file=file,
        image_ids=np.array([image["id"] for image in images], dtype=np.int64),
        sizes_hw=np.array([(image["height"], image["width"]) for image in images], dtype=np.int64),
        paths=[image["path"] for image in images],
        first=np.searchsorted(rows["image"][order], np.arange(len(images) + 1)),
        boxes_xyxy=rows["box"][order],
        labels=rows["label"][order],
        categories=categories,
        report=report,
    )


def _categories(rows: list[dict[str, Any]], file: Path) -> list[Category]:
    try:
        categories = sorted((Category(_index(row["id"]), _printable(str(row["name"]))) for row in rows), key=lambda c: c.id)
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{file}: each category must have an integer 'id' and a 'name'") from None
    if not categories:
        raise DataError(f"{file} lists no categories")
    for what in ("id", "name"):
        value, times = Counter(getattr(c, what) for c in categories).most_common(1)[0]
        if times > 1:
            raise DataError(f"{file}: the category {what} {value!r} is used twice")
    return categories


def _printable(name: str) -> str:
    """A name that can be drawn and written: control characters and halves of characters become �, any space a space."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in name)


def _images(rows: list[dict[str, Any]], pictures: Path, root: Path, file: Path) -> list[dict[str, Any]]:
    images, seen = [], set()
    for row in rows:
        try:
            image = {"id": _index(row["id"]), "width": int(row["width"]), "height": int(row["height"])}
            path = pictures / str(row["file_name"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"{file}: each image must have an integer 'id', 'width' and 'height' and a 'file_name', not {str(row)[:120]}"
            ) from None
        if image["id"] in seen:
            raise DataError(f"{file}: the image id {image['id']} is used twice")
        if image["width"] < 1 or image["height"] < 1:
            raise DataError(f"{file}: {row['file_name']} must have a size, not {image['width']} x {image['height']}")
        if not _is_inside(path, root):
            raise DataError(f"{file}: {row['file_name']} leaves the data set's folder {root}; it is not read")
        seen.add(image["id"])
        images.append(image | {"path": str(path)})
    return images


def _annotations(
    rows: list[dict[str, Any]], images: list[dict[str, Any]], categories: list[Category]
) -> tuple[dict[str, np.ndarray], list[str]]:
    image_index: dict[int | None, int] = {image["id"]: i for i, image in enumerate(images)}
    label_of: dict[int | None, int] = {c.id: i for i, c in enumerate(categories)}
    out: dict[str, list[Any]] = {"image": [], "box": [], "label": []}
    faults: dict[str, list[str]] = {}
    for row in rows:
        if row.get("iscrowd"):
            continue
        fault, clipped = None, None
        i = image_index.get(as_id(row.get("image_id")))
        label = label_of.get(as_id(row.get("category_id")))
        if i is None:
            fault = "belong to no listed image"
        elif label is None:
            fault = "are of no listed category"
        else:
            clipped, fault = _clip(row.get("bbox"), images[i]["width"], images[i]["height"])
        if fault:
            faults.setdefault(fault, []).append(f"annotation {row.get('id')}")
        if clipped is not None:
            out["image"].append(i)
            out["box"].append(clipped)
            out["label"].append(label)
    arrays: dict[str, np.ndarray] = {
        "image": np.array(out["image"], dtype=np.int64),
        "box": np.array(out["box"], dtype=np.float32).reshape(-1, 4),
        "label": np.array(out["label"], dtype=np.int64),
    }
    return arrays, [f"{len(names)} boxes {fault} ({_some(names)})" for fault, names in faults.items()]


def as_id(value: Any) -> int | None:
    """An id as a whole number, also where a tool wrote 7 as 7.0 or "7"; None where it is none."""
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
        is_whole = isinstance(value, int | str) or number == value
        return number if is_whole and abs(number) < 2**63 else None
    except (TypeError, ValueError, OverflowError):
        return None


def _index(value: Any) -> int:
    number = as_id(value)
    if number is None:
        raise ValueError(value)
    return number


def _is_inside(path: Path, root: Path) -> bool:
    """By what is written, so that a folder of pictures may be a link to elsewhere; or by where it truly is."""
    written, top = (Path(os.path.abspath(p)) for p in (path, root))  # noqa: PTH100
    return written.is_relative_to(top) or path.resolve().is_relative_to(root.resolve())


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _clip(bbox: Any, width: int, height: int) -> tuple[list[float] | None, str | None]:
    """xywh → xyxy inside the picture, and what was wrong with it."""
    try:
        x, y, w, h = (float(v) for v in bbox)
    except (TypeError, ValueError, OverflowError):
        return None, "are not four numbers and were left out"
    if not all(math.isfinite(v) for v in (x, y, w, h)):
        return None, "are not finite and were left out"
    box = [max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))]
    if w <= 0 or h <= 0:
        return None, "have no area and were left out"
    if box[2] - box[0] <= 0 or box[3] - box[1] <= 0:
        return None, "lie outside their picture and were left out"
    if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
        return box, "reach outside their picture and were clipped"
    return box, None


def match_categories(names: list[str], ids: list[int], categories: Iterable[Category], origin: str) -> dict[int, int]:
    """For each class index of a model the category id that a data set uses for it: by name.

    By id only where the model has no names but its classes' numbers; otherwise a "cat" would be counted as a "dog" because
    both are number 3.

    Raises
    ------
    DataError : not one class is known to the data set
    """
    categories = list(categories)
    by_name = {c.name: c.id for c in categories}
    known = {c.id for c in categories}
    mapping = {i: by_name[name] for i, name in enumerate(names) if name in by_name}
    if not mapping and names == [str(i) for i in range(len(names))]:
        mapping = {i: id_ for i, id_ in enumerate(ids) if id_ in known}
    if not mapping:
        raise DataError(
            f"no class of the model is a category of {origin}: the model has {_some(names)}; the data has "
            f"{_some(list(by_name))}. "
            "If they are the same under other names, set the model's class_names (or rename the categories)"
        )
    return mapping
