"""Reader for Pascal VOC.

Two layouts are supported: `Annotations/*.xml` and `JPEGImages/` with splits listed in `ImageSets/Main/*.txt`, or one folder per
split with images and XML files side by side.
"""

from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from conditional_detr.data.annotations import is_set
from conditional_detr.data.findings import WARNING
from conditional_detr.data.formats.image_files import Fault, content_of, is_file, text_of
from conditional_detr.data.split_location import is_inside
from conditional_detr.images.decoding import IMAGE_SUFFIXES

ANNOTATIONS, IMAGES, LISTS = "Annotations", "JPEGImages", Path("ImageSets", "Main")
SPLITS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}
MOST_BYTES = 10 * 2**20


class Object(NamedTuple):
    """An object: class name, corners (pixels counted from 1, last pixel included), and the flag "difficult"."""

    name: str
    corners: list[float]
    difficult: bool


class Annotated(NamedTuple):
    """An image, its width and height in px according to its XML file (None if not given), and its objects."""

    image: Path
    size: tuple[int, int] | None
    objects: list[Object]


def splits(root: Path) -> dict[str, Path]:
    """For each split its list of image names, or its folder of XML files (Roboflow).

    Lists for single classes, such as `dog_train.txt`, are ignored.
    """
    found: dict[str, Path] = {}
    for name, split in SPLITS.items():
        file = root / LISTS / f"{name}.txt"
        if file.is_file() and (root / ANNOTATIONS).is_dir():
            found.setdefault(split, file)
        elif next((root / name).glob("*.xml"), None):
            found.setdefault(split, root / name)
    return found


def read(root: Path, source: Path) -> tuple[dict[str, Any], list[Fault]]:
    """Read a split. Returns its COCO content and the faults. Classes are sorted by name over all splits.

    VOC boxes count pixels from 1 and include the last one.
    """
    faults: list[Fault] = []
    found = {each.image: each for each in _read_split(root, source, faults)}
    others = [each for other in splits(root).values() if other != source for each in _read_split(root, other, [])]
    every = sorted({thing.name for each in (*found.values(), *others) for thing in each.objects})
    number = {name: i for i, name in enumerate(every)}

    def rows(image: Path, width: int, height: int) -> list[dict[str, Any]]:
        boxes = []
        for thing in found[image].objects:
            x0, y0, x1, y1 = thing.corners
            box = [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]
            boxes.append({"category_id": number[thing.name], "bbox": box, "difficult": thing.difficult})
        return boxes

    categories = [{"id": i, "name": name} for name, i in number.items()]
    return content_of(found, rows, categories, root, lambda image: found[image].size), faults


def _read_split(root: Path, source: Path, faults: list[Fault]) -> list[Annotated]:
    if source.is_dir():  # an image without an XML file has no objects, as in YOLO
        images = [path for path in sorted(source.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
        return [_annotated(path, path.with_suffix(".xml"), faults) for path in images]
    found = []
    for line in text_of(source).splitlines():
        if not line.strip():
            continue
        name = line.strip()
        if not is_file(root / ANNOTATIONS / f"{name}.xml") and not is_file(_image(root, name)):
            name = name.split()[0]  # a list may have a flag after each name
        xml = root / ANNOTATIONS / f"{name}.xml"
        if not is_inside(xml, root):
            found.append(Annotated(_image(root, name), None, []))
            continue
        if not is_file(xml):
            faults.append(
                Fault(str(xml), "does not exist", "its image is treated as one without objects", "annotation-orphan", WARNING)
            )
        found.append(_annotated(_image(root, name), xml, faults))
    return found


def _image(root: Path, name: str) -> Path:
    folder = root / IMAGES
    return next((p for s in sorted(IMAGE_SUFFIXES) if is_file(p := folder / f"{name}{s}")), folder / f"{name}.jpg")


def _annotated(image: Path, file: Path, faults: list[Fault]) -> Annotated:
    if not is_file(file):
        return Annotated(image, None, [])
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES} bytes")
        tree = ElementTree.parse(file)
    except (OSError, ValueError, ElementTree.ParseError, RecursionError) as error:
        faults.append(Fault(str(file), f"is not valid XML: {error}", "its boxes are left out"))
        return Annotated(image, None, [])
    objects: list[Object] = []
    for i, element in enumerate(tree.iterfind("object"), 1):
        try:
            corners = [float(element.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
            name = " ".join((element.findtext("name") or "").split())
            if not name:
                raise ValueError("no name")
        except ValueError:
            faults.append(Fault(str(file), f"object {i} must have a name and a bndbox of four numbers", "the box is left out"))
            continue
        objects.append(Object(name, corners, is_set(element.findtext("difficult"))))
    return Annotated(image, _size(tree), objects)


def _size(tree: Any) -> tuple[int, int] | None:
    try:
        width, height = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None
