"""Detect the format of a data set and find its splits: COCO, YOLO, Pascal VOC or Hugging Face's imagefolder."""

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
    """A split of a data set, not read yet.

    Attributes
    ----------
    format : "COCO", "YOLO", "Pascal VOC" or "imagefolder"
    location : where the split is on disk
    reader : reads the split; returns its COCO content and the parts that could not be read
    """

    format: str
    location: SplitLocation
    reader: Callable[[], tuple[Content, list[Fault]]]

    def read(self) -> tuple[Content, list[Finding]]:
        """Read the split. Returns its COCO content, and a finding for each part that could not be read."""
        content, faults = self.reader()
        return content, [Finding(f.code, self.location.split, f.file, None, f.message, f.severity, f.fix) for f in faults]


def find_source(folder: str | Path, split: str) -> SplitSource:
    """Find a split of a data set.

    Raises
    ------
    DataError : there is no such split; the message lists the supported layouts and the splits that were found
    """
    root = Path(folder)
    if not root.is_dir() and not _is_yaml(root):
        raise DataError(f"{root} is not a folder: --data must be a data set (supported layouts: {LAYOUTS})")
    found = sources(root)
    split = next((usual for usual, names in SPLIT_NAMES.items() if split in names and split not in found), split)
    if split in SPLIT_NAMES:
        found = by_usual_name(found)
    if split in found:
        return found[split]
    if found:
        raise DataError(f"{root} has no split {split!r}. It has: {', '.join(sorted(found))}.")
    raise DataError(f"{root} is not a data set: none of the supported layouts was found there ({LAYOUTS})")


def sources(root: Path) -> dict[str, SplitSource]:
    """All splits of a data set by name, in the first format that is found.

    `root` may also be the YAML file of a YOLO data set. No format found: an empty dict.
    """
    path = Path(os.path.abspath(root))  # noqa: PTH100 · normalises ".." without resolving links
    if _is_yaml(path):
        return _yolo(path.parent, path)
    for find in (_coco, _yolo, _voc, _imagefolder):
        if found := find(path):
            return found
    return {}


def by_usual_name(found: dict[str, SplitSource]) -> dict[str, SplitSource]:
    """Rename splits to train, valid and test. If two splits would get one name, the second one keeps its own."""
    usual = {name: next((each for each in names if each in found), None) for name, names in SPLIT_NAMES.items()}
    new_name = {old: name for name, old in usual.items() if old is not None}
    return {new_name.get(name, name): source for name, source in found.items()}


def _is_yaml(file: Path) -> bool:
    return file.suffix.lower() in (".yaml", ".yml") and file.is_file()


def read_json(file: Path) -> Content:
    """Read a COCO file and check that it has its three lists of objects."""
    content = read_json_object(file, DataError)
    check_lists(content, str(file))
    return content


def check_lists(content: Content, origin: str) -> None:
    """Check that a COCO content has the lists "images", "annotations" and "categories", and that they hold objects."""
    for key in LISTS:
        rows = content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{origin} is not a COCO file: {key!r} must be a list of objects")


def _coco(root: Path) -> dict[str, SplitSource]:
    """Splits of a COCO data set.

    Either ``SPLIT/_annotations.coco.json`` in the folder of the images (Roboflow), or ``annotations/instances_SPLIT*.json``.
    """
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
    return {  # root.parent: `path` may point to a sibling folder
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
