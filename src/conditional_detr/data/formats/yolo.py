"""Reader for YOLO: a `data.yaml` with class names and image folders, and one text file of boxes or polygons per image."""

from pathlib import Path
from typing import Any

from conditional_detr.data.file_lookup import FileLookup, folded
from conditional_detr.data.findings import RULES, WARNING
from conditional_detr.data.formats.image_files import (
    Fault,
    content_of,
    images_of,
    lines_of,
    unlisted_images,
    unsupported_files,
)
from conditional_detr.data.formats.label_files import missing_labels
from conditional_detr.data.formats.yolo_description import Description, class_names, splits
from conditional_detr.data.splits.location import SplitLocation
from conditional_detr.data.text import number_of, text_of
from conditional_detr.errors import DataError
from conditional_detr.images.file_types import files_below, folder_contents, is_note, is_visible

CORNERS = 3  # minimum number of corners of a polygon
NO_LABELS = ("classes.txt", "notes.txt")  # text files of labelling tools that are not labels
UNREADABLE = (RULES["annotation-unreadable"].fix, "annotation-unreadable")


def further_folders(about: Description, sources: list[Path]) -> tuple[Path, ...]:
    """Return the folders of images and labels named in the YAML file, if the user gave the file itself."""
    if not about.is_named:
        return ()
    images = [source.parent if source.is_file() else source for source in sources]
    return (about.base, *images, *(label_file(folder / "x").parent for folder in images))


def read(about: Description, sources: list[Path], location: SplitLocation) -> tuple[dict[str, Any], list[Fault]]:
    """Read a split. Returns its COCO content, with absolute file names, and the faults."""
    names = class_names(about)
    faults = [
        Fault(
            str(about.file),
            f"{source} does not exist{about.note_on_path()}",
            "nothing is changed; the path is ignored",
            "split-missing",
        )
        for source in sources
        if not source.exists()
    ]
    faults += [
        Fault(
            str(about.file),
            f"{about.moved[source]} does not exist on this machine; {source} is read",
            "nothing is changed; the folder is read",
            "image-spelling",
        )
        for source in sources
        if source in about.moved
    ]
    images, others = _files(about, [source for source in sources if source.exists()], location, faults)
    if sources and all(source.is_file() for source in sources):
        faults += _unlisted(about, images, location)
    labels = LabelFiles(images)
    is_pose = "kpt_shape" in about.content

    def rows(image: Path, width: int, height: int) -> list[dict[str, Any]] | None:
        file = labels.of(image)
        if not file.exists():
            return []
        if not location.contains(file):
            faults.append(Fault(str(file), "lies outside the data set's folder and is not read", *UNREADABLE))
            return None
        return _boxes(file, width, height, is_pose, faults)

    content = content_of(images, rows, [{"id": i, "name": name} for i, name in sorted(names.items())], location)
    faults += missing_labels(images, labels.of)
    return content, faults + _labels_alone(sources, {*labels.used, *map(label_file, others)})


def _files(
    about: Description, sources: list[Path], location: SplitLocation, faults: list[Fault]
) -> tuple[list[Path], list[Path]]:
    """Return the images of folders and lists, and the other files of the folders."""
    images: list[Path] = []
    others: list[Path] = []
    for source in sources:
        if source.is_dir():
            folder = folder_contents(source)
            images += folder.images
            others += [file for file in folder.others if not is_note(file)]
            faults += unsupported_files(source, folder.others)
        else:
            lookup = FileLookup(source.parent, about.base, location.split)
            images += images_of(lines_of(source), lookup, source, faults)
    return images, others


def _unlisted(about: Description, images: list[Path], location: SplitLocation) -> list[Fault]:
    """Faults for images that lie beside those of a list, if no list of the data set names them."""
    places = [place for several in splits(about).values() for place in several]
    listed = [name for place in places if place.is_file() for name in lines_of(place)]
    folders = {image.parent for image in images if "\0" not in str(image)}
    return unlisted_images(
        (folder for folder in folders if location.contains(folder)), [*map(str, images), *listed], filter(Path.is_dir, places)
    )


def _labels_alone(sources: list[Path], known: set[Path]) -> list[Fault]:
    """Return faults for label files without an image. `known`: label files of images, and of files that may be images."""
    folders = {label_file(source / "x").parent for source in sources if source.is_dir()}
    return [
        Fault(str(file), "there is no image for this label file", "the labels are left out", "annotation-orphan")
        for folder in sorted(folders)
        for file in sorted(files_below(folder))
        if file.suffix.lower() == ".txt" and file not in known and file.name.lower() not in NO_LABELS
    ]


def label_file(image: Path) -> Path:
    """Return the path of the label file of an image.

    The last `images/` in the path is replaced by `labels/`. A file next to the image is used if it exists only there.
    """
    beside, parts = image.with_suffix(".txt"), list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i].lower() == "images":
            same_case = "Labels" if parts[i] == "Images" else "LABELS" if parts[i].isupper() else "labels"
            usual = [Path(*parts[:i], name, *parts[i + 1 :]).with_suffix(".txt") for name in (same_case, "labels")]
            found = next((file for file in usual if file.parent.is_dir()), usual[0])
            return beside if beside.exists() and not found.exists() else found
    return beside


class LabelFiles:
    """Label files of images. Their names may differ from those of the images in case and Unicode form.

    Attributes
    ----------
    used : label files that belong to an image
    """

    def __init__(self, images: list[Path]) -> None:
        self.own = {image: label_file(image) for image in images}
        self.used = set(self.own.values())
        self.folders: dict[Path, dict[str, list[Path]]] = {}

    def of(self, image: Path) -> Path:
        """Return the label file of an image. The file does not exist if the image has no labels."""
        file = self.own[image]
        if file.exists():
            return file
        if file.parent not in self.folders:
            self.folders[file.parent] = _by_folded_name(file.parent, self.used)
        fits = self.folders[file.parent].get(folded(file.name), [])
        if len(fits) != 1:
            return file
        self.used.add(fits[0])
        return fits[0]


def _by_folded_name(folder: Path, taken: set[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if is_visible(file.name) and file not in taken:
            found.setdefault(folded(file.name), []).append(file)
    return found


def _boxes(file: Path, width: int, height: int, is_pose: bool, faults: list[Fault]) -> list[dict[str, Any]] | None:
    """Read the boxes of a label file, in px. None if no line can be read.

    In pose labels the box comes first, followed by keypoints, which are ignored. A number after the box or the polygon is the
    confidence or the track id of a detector that wrote the labels. It is ignored too, and reported.
    """
    has_more = False
    try:
        lines = text_of(file).splitlines()
    except DataError as error:
        faults.append(Fault(str(file), str(error), *UNREADABLE))
        return None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            label, *values = (number_of(word) for word in line.split())
        except ValueError:
            faults.append(
                Fault(str(file), f"line {number} must contain only numbers, not {line.strip()[:60]!r}", "the line is left out")
            )
            continue
        is_longer = not is_pose and len(values) > 4 and len(values) % 2 == 1
        has_more |= is_longer
        box = _box(values[:4] if is_pose else values[:-1] if is_longer else values)
        if box is None:
            text = f"line {number} must be a class followed by four numbers or a polygon, not by {len(values)} numbers"
            faults.append(Fault(str(file), text, "the line is left out"))
            continue
        x, y, w, h = box
        rows.append({"category_id": label, "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]})
    if has_more:
        text = "has lines with one more number after the box, such as a confidence"
        faults.append(Fault(str(file), text, RULES["label-columns"].fix, "label-columns", WARNING))
    if not rows and any(line.strip() for line in lines):
        faults.append(Fault(str(file), "none of its lines can be read", *UNREADABLE))
        return None
    return rows


def _box(values: list[float]) -> tuple[float, float, float, float] | None:
    """Box as centre x, centre y, width, height in [0, 1]. A polygon is replaced by its bounding box."""
    if len(values) == 4:
        return values[0], values[1], values[2], values[3]
    if len(values) < 2 * CORNERS or len(values) % 2:
        return None
    xs, ys = values[0::2], values[1::2]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)
