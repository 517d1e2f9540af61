"""Reader for Pascal VOC.

Two layouts are supported: `Annotations/*.xml` and `JPEGImages/` with splits listed in `ImageSets/Main/*.txt`, or one folder per
split with images and XML files side by side.
"""

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from conditional_detr.data.annotations import is_set
from conditional_detr.data.file_lookup import folded, stem_of
from conditional_detr.data.findings import RULES, WARNING
from conditional_detr.data.formats.image_files import (
    Fault,
    content_of,
    is_file,
    lines_of,
    unlisted_images,
    unsupported_files,
)
from conditional_detr.data.formats.voc_files import Folders, listed_names, root_of, splits
from conditional_detr.data.splits.location import SplitLocation
from conditional_detr.data.splits.names import usual_split
from conditional_detr.data.text import encoding_of, may_be_other, number_of
from conditional_detr.errors import plural
from conditional_detr.images.file_types import (
    files_below,
    is_image_name,
    is_note,
    is_visible,
    is_visible_in_list,
)

MAX_BYTES = 10 * 2**20  # largest XML file
UNREADABLE = (RULES["annotation-unreadable"].fix, "annotation-unreadable")


class Object(NamedTuple):
    """An object: class name, corners x0, y0, x1, y1 (px, counted from 1, last pixel included), and the flag "difficult"."""

    name: str
    corners: list[float]
    difficult: bool


class Annotated(NamedTuple):
    """An image, its width and height in px as given in its XML file (None if not given), and its objects."""

    image: Path
    size: tuple[int, int] | None
    objects: list[Object]


def read(root: Path, source: Path, location: SplitLocation) -> tuple[dict[str, Any], list[Fault]]:
    """Read a split. Returns its COCO content and the faults. Classes are sorted by name over all splits.

    VOC boxes count pixels from 1 and include the last one.
    """
    faults: list[Fault] = []
    reader = SplitReader(root_of(root, source), location)
    found = {each.image: each for each in reader.read(source, faults)}
    others = [
        each
        for other in splits(root).values()
        if other != source
        for each in SplitReader(root_of(root, other), location).read(other, [])
    ]
    every = sorted({thing.name for each in (*found.values(), *others) for thing in each.objects})
    number = {name: i for i, name in enumerate(every)}

    def rows(image: Path, width: int, height: int) -> list[dict[str, Any]]:
        boxes = []
        for thing in found[image].objects:
            x0, y0, x1, y1 = thing.corners
            box = [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]
            boxes.append({"category_id": number[thing.name], "bbox": box, "difficult": thing.difficult})
        return boxes

    if source.is_file():
        faults += unlisted_images([reader.folders.images], [*map(str, found), *listed_names(root)])
    elif reader.has_folders(source):
        faults += unlisted_images([reader.folders.images], [*map(str, found), *reader.folders.xml_of])
    categories = [{"id": i, "name": name} for name, i in number.items()]
    return content_of(found, rows, categories, location, lambda image: found[image].size), faults


class SplitReader:
    """Reads splits of a data set.

    Attributes
    ----------
    guessed : XML files whose encoding is neither declared nor UTF-8, and the encoding used for each of them
    stripped : entries of a list with a suffix or a folder, and the stem found for each of them
    """

    def __init__(self, root: Path, location: SplitLocation) -> None:
        self.root, self.location, self.folders = root, location, Folders(root)

    def read(self, source: Path, faults: list[Fault]) -> list[Annotated]:
        """Return the images of a split and their objects. Those that cannot be read are left out and added to `faults`."""
        self.guessed: list[tuple[Path, str]] = []
        self.stripped: list[tuple[str, str]] = []
        if source.is_file():
            found = [self._of_line(line, faults) for line in lines_of(source) if is_visible_in_list(line)]
        elif self.has_folders(source):
            files = [file for files in self.folders.xml_of.values() for file in files if file.is_relative_to(source)]
            found = [self._of_xml(file, faults) for file in sorted(files)]
        else:
            found = self._of_folder(source, faults)
        if self.stripped:
            (name, stem), count = self.stripped[0], len(self.stripped)
            text = f"{plural(count, 'name')} in the list with a suffix or a folder, e.g. {name!r} instead of {stem!r}"
            faults.append(
                Fault(str(source), text, f"nothing is changed; the files of {plural(count, 'stem')} are read", "image-spelling")
            )
        if self.guessed:
            (file, encoding), count = self.guessed[0], len(self.guessed)
            text = f"{plural(count, 'XML file')} without a declared encoding and not in UTF-8: read as {encoding}, e.g. {file}"
            faults.append(
                Fault(
                    str(source), text, f"nothing is changed; {plural(count, 'file')} read as {encoding}", "annotation-encoding"
                )
            )
        return [each for each in found if each is not None]

    def has_folders(self, source: Path) -> bool:
        """Whether a source is the folder of XML files, or a part of it, and the images have their own folder."""
        annotations = self.folders.annotations
        return annotations in (source, source.parent) and self.folders.images != self.root

    def _encoding_of(self, data: bytes) -> tuple[str, bool]:
        """Return the encoding of an XML file, and whether it is a guess. Other files of the data set decide unclear cases."""
        encoding, is_guessed = encoding_of(data)
        if encoding == "utf-8" and may_be_other(data) and self.other_encoding:
            return self.other_encoding, True
        return encoding, is_guessed

    @cached_property
    def other_encoding(self) -> str | None:
        """The encoding of the first XML file of the data set whose encoding must be guessed."""
        for file in sorted(files_below(self.root)):
            if file.suffix.lower() == ".xml" and file.stat().st_size <= MAX_BYTES:
                with suppress(OSError, UnicodeError):
                    encoding, is_guessed = encoding_of(file.read_bytes())
                    if is_guessed:
                        return encoding
        return None

    def _of_folder(self, folder: Path, faults: list[Fault]) -> list[Annotated | None]:
        """Read a folder of images and XML files. An image without an XML file has no objects, as in YOLO."""
        files = [file for file in sorted(folder.iterdir()) if is_visible(file.name) and file.is_file()]
        images = [file for file in files if is_image_name(file)]
        faults += unsupported_files(folder, [file for file in files if not is_image_name(file)])
        xml_of = {folded(file.stem): file for file in files if file.suffix.lower() == ".xml"}
        faults += [
            Fault(str(xml), "there is no image for this label file", "the labels are left out", "annotation-orphan")
            for stem, xml in xml_of.items()
            if stem not in {folded(file.stem) for file in files if not is_note(file)}
        ]
        return [self._annotated(image, xml_of.get(folded(image.stem)), faults) for image in images]

    def _of_line(self, line: str, faults: list[Fault]) -> Annotated | None:
        """Read the image and the XML file of one entry of a list."""
        xml = image = None
        for name in _names(line):
            xml, image = self.folders.find(name)
            if xml or image:
                if name not in (line, line.split()[0]):
                    self.stripped.append((line, name))
                break
        else:
            name = line if is_file(self.folders.annotations / f"{line}.xml") else line.split()[0]
        if image is None:
            image = self.folders.images / f"{name}.jpg"
        if not self.location.contains(image):
            return Annotated(image, None, [])
        if xml is None:
            text = str(self.folders.annotations / f"{name}.xml")
            fix = "the image is treated as an image without objects"
            faults.append(Fault(text, "does not exist", fix, "annotation-orphan", WARNING))
        return self._annotated(image, xml, faults)

    def _of_xml(self, file: Path, faults: list[Fault]) -> Annotated | None:
        """Read an XML file and the image of the same stem."""
        name = file.relative_to(self.folders.annotations).with_suffix("")
        image = self.folders.find(str(name))[1] or self._of_this_split(self.folders.find(name.name)[1])
        return self._annotated(image or self.folders.images / f"{name}.jpg", file, faults)

    def _of_this_split(self, image: Path | None) -> Path | None:
        """Return the image, unless it lies in a folder of another split."""
        folders = image.relative_to(self.folders.images).parts[:-1] if image else ()
        named = {usual_split(folder) for folder in folders} - {None}
        return image if not named or usual_split(self.location.split) in named else None

    def _annotated(self, image: Path, file: Path | None, faults: list[Fault]) -> Annotated | None:
        """Return an image and its objects. None if the XML file cannot be read, because the objects are then unknown."""
        if file is None:
            return Annotated(image, None, [])
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES} bytes")
            data = file.read_bytes()
            encoding, is_guessed = self._encoding_of(data)
            tree = ElementTree.fromstring(data.decode(encoding))
        except (OSError, ValueError, ElementTree.ParseError, RecursionError) as error:
            faults.append(Fault(str(file), f"is not valid XML: {error}", *UNREADABLE))
            return None
        if is_guessed:
            self.guessed.append((file, encoding))
        if not is_file(image):  # its name may not be that of the XML file
            named = Path((tree.findtext("filename") or "").strip().replace("\\", "/")).name
            if folded(stem_of(named)) not in self.folders.xml_of:  # otherwise it is the image of that file
                image = self._of_this_split(self.folders.find(stem_of(named))[1]) or image
        elements = list(tree.iterfind("object"))
        objects = _objects(elements, file, faults)
        if elements and not objects:
            faults.append(Fault(str(file), "none of its objects can be read", *UNREADABLE))
            return None
        return Annotated(image, _size(tree), objects)


def _names(line: str) -> list[str]:
    """Possible stems for a line of a list, the most literal first. A line may contain a flag, a suffix and folders."""
    first = line.split()[0]
    plain = [text.replace("\\", "/") for text in dict.fromkeys([line, first])]
    if any(".." in Path(text).parts for text in plain):
        return []
    short = [Path(text).with_suffix("") for text in plain if Path(text).suffix and Path(text).name]
    return list(dict.fromkeys([*plain, *map(str, short), *(Path(text).name for text in plain), *(path.name for path in short)]))


def _objects(elements: list[Any], file: Path, faults: list[Fault]) -> list[Object]:
    objects: list[Object] = []
    for i, element in enumerate(elements, 1):
        try:
            corners = [number_of(element.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
            name = " ".join((element.findtext("name") or "").split())
            if not name:
                raise ValueError("no name")
        except ValueError:
            faults.append(Fault(str(file), f"object {i} must have a name and a bndbox of four numbers", "the box is left out"))
            continue
        objects.append(Object(name, corners, is_set(element.findtext("difficult"))))
    return objects


def _size(tree: Any) -> tuple[int, int] | None:
    try:
        width, height = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None
