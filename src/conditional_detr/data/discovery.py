"""Where a data set keeps its splits, found by looking: COCO, YOLO, Pascal VOC, Hugging Face's imagefolder."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from conditional_detr.data.findings import Finding
from conditional_detr.data.formats import imagefolder, voc, yolo
from conditional_detr.data.formats.image_files import Fault
from conditional_detr.data.split_location import SplitLocation
from conditional_detr.errors import DataError
from conditional_detr.storage.json import read_json_object

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
ROBOFLOW_FILE = "_annotations.coco.json"
LISTS = ("images", "annotations", "categories")
LAYOUTS = (
    f"COCO: SPLIT/{ROBOFLOW_FILE}, or annotations/instances_SPLIT.json with the images in SPLIT/ or images/SPLIT/; YOLO: "
    "data.yaml; Pascal VOC: Annotations/ and ImageSets/Main/SPLIT.txt, or SPLIT/*.xml; imagefolder: SPLIT/metadata.jsonl"
)

Content = dict[str, Any]


class SplitSource(NamedTuple):
    """A split of a data set.

    Attributes
    ----------
    format : "COCO", "YOLO", "Pascal VOC" or "imagefolder"
    location : where it is
    reader : makes its COCO content, and tells what could not be read
    """

    format: str
    location: SplitLocation
    reader: Callable[[], tuple[Content, list[Fault]]]

    def read(self) -> tuple[Content, list[Finding]]:
        """Its COCO content, and what could not be read of it."""
        content, faults = self.reader()
        return content, [Finding(f.code, self.location.split, f.file, None, f.message, f.severity, f.fix) for f in faults]


def find_source(folder: str | Path, split: str) -> SplitSource:
    """A split of a data set.

    Raises
    ------
    DataError : says what was looked for and which splits are there
    """
    root = Path(folder)
    if not root.is_dir() and not _is_yaml(root):
        raise DataError(f"{root} is no folder: --data must be a data set ({LAYOUTS})")
    found = sources(root)
    if split in SPLIT_NAMES:
        found = by_usual_name(found)
    if split in found:
        return found[split]
    have = f"It has: {', '.join(sorted(found))}." if found else "Nothing there looks like one of the known layouts."
    raise DataError(f"{root} has no split {split!r} ({LAYOUTS}). {have}")


def sources(root: Path) -> dict[str, SplitSource]:
    """Every split of a data set, in the first format of which there is any; of a YAML file, YOLO's."""
    path = Path(os.path.abspath(root))  # noqa: PTH100 · names in it may go up a folder
    if _is_yaml(path):
        return _yolo(path.parent, path)
    for find in (_coco, _yolo, _voc, _imagefolder):
        if found := find(path):
            return found
    return {}


def by_usual_name(found: dict[str, SplitSource]) -> dict[str, SplitSource]:
    """The splits as train, valid and test, whatever they are called; a second one of a kind keeps its name."""
    usual = {name: next((each for each in names if each in found), None) for name, names in SPLIT_NAMES.items()}
    new_name = {old: name for name, old in usual.items() if old is not None}
    return {new_name.get(name, name): source for name, source in found.items()}


def _is_yaml(file: Path) -> bool:
    return file.suffix.lower() in (".yaml", ".yml") and file.is_file()


def read_json(file: Path) -> Content:
    """A COCO file as a dict with its three lists, of dicts each."""
    content = read_json_object(file, DataError)
    check_lists(content, str(file))
    return content


def check_lists(content: Content, origin: str) -> None:
    """A COCO file has three lists of objects."""
    for key in LISTS:
        rows = content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{origin} is no COCO file: {key!r} must be a list of objects")


def _coco(root: Path) -> dict[str, SplitSource]:
    """``SPLIT/_annotations.coco.json`` beside the images (Roboflow), or ``annotations/instances_SPLIT*.json`` (classic)."""
    found = {file.parent.name: (file, file.parent) for file in sorted(root.glob(f"*/{ROBOFLOW_FILE}"))}
    for file in sorted((root / "annotations").glob("instances_*.json")):
        stem = file.stem.removeprefix("instances_")
        folders = [root / stem, root / "images" / stem, root / "images", root]
        name = stem.rstrip("0123456789") or stem
        found[stem if name in found else name] = (file, next(f for f in folders if f.is_dir()))
    return {
        name: SplitSource("COCO", SplitLocation(name, file, images, root), partial(_read_coco, file))
        for name, (file, images) in found.items()
    }


def _read_coco(file: Path) -> tuple[Content, list[Fault]]:
    return read_json(file), []


def _yolo(root: Path, file: Path | None = None) -> dict[str, SplitSource]:
    file = file or yolo.description(root)
    if file is None:
        return {}
    return {  # `path` may point beside the folder
        name: SplitSource("YOLO", SplitLocation(name, file, root, root.parent), partial(yolo.read, file, image_sources))
        for name, image_sources in yolo.splits(file).items()
    }


def _voc(root: Path) -> dict[str, SplitSource]:
    return {
        name: SplitSource("Pascal VOC", SplitLocation(name, file, root, root), partial(voc.read, root, file))
        for name, file in voc.splits(root).items()
    }


def _imagefolder(root: Path) -> dict[str, SplitSource]:
    return {
        name: SplitSource("imagefolder", SplitLocation(name, file, file.parent, root), partial(imagefolder.read, file))
        for name, file in imagefolder.splits(root).items()
    }
