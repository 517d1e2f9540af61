"""Pascal VOC: `Annotations/*.xml` beside `JPEGImages/`, splits listed in `ImageSets/Main/*.txt`."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from conditional_detr.data.formats.pictures import content_of
from conditional_detr.errors import DataError
from conditional_detr.preprocessing import IMAGE_SUFFIXES

ANNOTATIONS, PICTURES, LISTS = "Annotations", "JPEGImages", Path("ImageSets", "Main")
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}
MOST_BYTES = 10 * 2**20


def splits(root: Path) -> dict[str, Path]:
    """Each split's list of names; a list a class (`dog_train.txt`) is none."""
    found: dict[str, Path] = {}
    for name, split in SPLITS.items():
        file = root / LISTS / f"{name}.txt"
        if file.is_file():
            found.setdefault(split, file)
    return found


def read(root: Path, listed: Path) -> tuple[dict[str, Any], list[str]]:
    """One split as a COCO content, classes in the order of their names, and what could not be read, a line each.

    VOC's boxes count pixels from 1 and include their last one.
    """
    faults: list[str] = []
    names = _lines(listed)
    objects = {name: _objects(root / ANNOTATIONS / f"{name}.xml", faults) for name in names}
    every = sorted({label for file in (root / LISTS).glob("*.txt") for label in _classes(root, file)})
    number = {label: i for i, label in enumerate(every)}
    pictures = {_picture(root, name): name for name in names}

    def rows(picture: Path, width: int, height: int) -> list[dict[str, Any]]:
        found = objects[pictures[picture]]
        return [
            {"category_id": number[label], "bbox": [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1], "difficult": difficult}
            for label, (x0, y0, x1, y1), difficult in found
        ]

    return content_of(pictures, rows, [{"id": i, "name": name} for name, i in number.items()], root), faults


def _classes(root: Path, listed: Path) -> set[str]:
    if listed.stem not in SPLITS:
        return set()
    return {label for name in _lines(listed) for label, _, _ in _objects(root / ANNOTATIONS / f"{name}.xml", [])}


def _lines(file: Path) -> list[str]:
    try:
        return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}") from None


def _picture(root: Path, name: str) -> Path:
    folder = root / PICTURES
    return next((p for s in sorted(IMAGE_SUFFIXES) if (p := folder / f"{name}{s}").exists()), folder / f"{name}.jpg")


Object = tuple[str, tuple[float, float, float, float], bool]


def _objects(file: Path, faults: list[str]) -> list[Object]:
    """Name, box and whether it is marked difficult; a missing file means a picture without objects."""
    if not file.exists():
        return []
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES} bytes")
        tree = ElementTree.parse(file)
    except (OSError, ValueError, ElementTree.ParseError, RecursionError) as error:
        faults.append(f"{file} is no valid XML: {error}")
        return []
    found: list[Object] = []
    for i, element in enumerate(tree.iterfind("object"), 1):
        try:
            corners = [float(element.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
            name = element.findtext("name")
            if not name:
                raise ValueError("no name")
        except ValueError:
            faults.append(f"{file}, object {i} must have a name and a bndbox of four numbers")
            continue
        found.append((name, (corners[0], corners[1], corners[2], corners[3]), element.findtext("difficult") == "1"))
    return found
