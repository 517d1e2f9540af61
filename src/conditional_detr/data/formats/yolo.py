"""Reader for YOLO: a `data.yaml` with class names and image folders, and one text file of boxes or polygons per image."""

from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from conditional_detr.data.annotations import as_id
from conditional_detr.data.file_lookup import DRIVE, FileLookup, folded
from conditional_detr.data.findings import RULES
from conditional_detr.data.formats.image_files import (
    Fault,
    content_of,
    images_of,
    lines_of,
    unlisted_images,
    unsupported_files,
)
from conditional_detr.data.formats.label_files import missing_labels
from conditional_detr.data.splits.location import SplitLocation, is_inside
from conditional_detr.data.splits.names import usual_split
from conditional_detr.data.text import number_of, text_of
from conditional_detr.errors import DataError
from conditional_detr.images.file_types import files_below, folder_contents, is_note, is_visible
from conditional_detr.storage.json import without_surrogates

YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
MAX_BYTES = 2**20  # largest YAML file
CORNERS = 3  # minimum number of corners of a polygon
NO_LABELS = ("classes.txt", "notes.txt")  # text files of labelling tools that are not labels
UNREADABLE = (RULES["annotation-unreadable"].fix, "annotation-unreadable")
CLASS_LISTS = ("classes.txt", "obj.names", "labels/classes.txt", "train/classes.txt", "train/labels/classes.txt")
ALL = "all"  # name of the only split of a data set without splits
NUMBERS = ("nc", "kpt_shape")  # keys of the YAML file whose values are numbers
PATHS = frozenset({"bool", "int", "float", "timestamp"})  # YAML types of paths that are read as strings
NAMES = PATHS | {"null"}  # YAML types of class names that are read as strings


def description(root: Path) -> Path | None:
    """Return the YAML file of a YOLO data set, or None."""
    return next((root / name for name in YAMLS if (root / name).is_file()), None)


class Description(NamedTuple):
    """Content of the YAML file of a data set.

    Attributes
    ----------
    file, content : the YAML file and its content
    base : folder that the paths in it are relative to
    is_named : whether the user gave the YAML file itself. Only then its paths may lead outside the parent of its folder
    moved : for each folder that was found instead of a path of another machine, that path
    """

    file: Path
    content: dict[str, Any]
    base: Path
    is_named: bool
    moved: dict[Path, str]

    @property
    def around(self) -> Path:
        """Folder that all paths must lie in if the user did not give the YAML file itself."""
        return self.file.absolute().parent.parent

    def note_on_path(self) -> str:
        """Return the reason why `path` was not used; empty if it was used."""
        given = self.content.get("path")
        if not isinstance(given, str) or not given or "\0" in given or self.base == _joined(self.file.parent, given):
            return ""
        if not _joined(self.file.parent, given).is_dir():
            return f" ('path: {given}' in {self.file} is not a folder)"
        return f" ('path: {given}' in {self.file} lies outside {self.around}: {self.advice()})"

    def advice(self) -> str:
        """Return what the user can do to read the folder."""
        return f"to read it, give the YAML file itself instead of its folder: {self.file}"


def described(file: Path, is_named: bool) -> Description:
    """Read the YAML file of a data set."""
    content, base = _read(file), file.parent
    given = content.get("path")
    if isinstance(given, str) and "\0" not in given:
        path = _joined(file.parent, without_surrogates(given))
        base = path if path.is_dir() and (is_named or is_inside(path, file.absolute().parent.parent)) else base
    return Description(file, content, base, is_named, {})


def without_description(root: Path) -> Description | None:
    """Describe a data set with a list of class names but no YAML file, as labelling tools export it. None for others.

    Its splits are the folders or lists of images whose names are names of splits. Without these, all images are the split
    "all".
    """
    classes = next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)
    if classes is None:
        return None
    images = next((root / name for name in ("images", "Images") if (root / name).is_dir()), root)
    places = [*images.iterdir(), *root.iterdir()] if root != images else [*root.iterdir()]
    places = [path for path in sorted(places) if path.is_dir() or path.suffix.lower() == ".txt"]
    parts = {split: str(path) for path in reversed(places) if is_visible(path.name) and (split := usual_split(path.stem))}
    content: dict[str, Any] = {"names": lines_of(classes), **(parts or {ALL: str(images)})}
    return Description(root / "data.yaml", content, root, is_named=False, moved={})


def splits(about: Description) -> dict[str, list[Path]]:
    """Return the image folders or lists of images of each split.

    Paths are resolved as in ultralytics. They are relative to `path`, which is relative to the folder of the YAML file. A path
    that begins with ``../`` is also tried without it. If the user gave only the folder of the YAML file, all paths must lie
    inside the parent of that folder.
    """
    found: dict[str, list[Path]] = {}
    for key, given in about.content.items():
        split = ALL if key == ALL else usual_split(str(key))
        names = [name for name in (given if isinstance(given, list) else [given]) if isinstance(name, str) and name]
        if split and names:
            found.setdefault(split, [_located(without_surrogates(name), about) for name in names])
    return found


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
        faults += _unlisted(about, images)
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


def _unlisted(about: Description, images: list[Path]) -> list[Fault]:
    """Faults for images that lie beside those of a list, if no list of the data set names them."""
    lists = [file for several in splits(about).values() for file in several if file.is_file()]
    names = [*map(str, images), *(name for file in lists for name in lines_of(file))]
    return [fault for folder in sorted({image.parent for image in images}) for fault in unlisted_images(folder, names)]


def _labels_alone(sources: list[Path], known: set[Path]) -> list[Fault]:
    """Return faults for label files without an image. `known`: label files of images, and of files that may be images."""
    folders = {label_file(source / "x").parent for source in sources if source.is_dir()}
    return [
        Fault(str(file), "there is no image for this label file", "the labels are left out", "annotation-orphan")
        for folder in sorted(folders)
        for file in sorted(files_below(folder))
        if file.suffix.lower() == ".txt" and file not in known and file.name.lower() not in NO_LABELS
    ]


def class_names(about: Description) -> dict[int, str]:
    """Return class names by number, from `names` (a list or a mapping). If only `nc` is given, the numbers are the names."""
    content = about.content
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if names is None and isinstance(content.get("nc"), int):
        names = {i: str(i) for i in range(min(content["nc"], 100_000))}
    try:
        found = {as_id(i): name for i, name in dict(names).items()}  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError):
        found = {}
    if not found or None in found or not all(isinstance(name, str) and name for name in found.values()):
        raise DataError(f"{about.file}: 'names' must be a list of class names, or a mapping from numbers to names")
    return {i: without_surrogates(name) for i, name in found.items() if i is not None}


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

    In pose labels the box comes first, followed by keypoints, which are ignored.
    """
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
        box = _box(values[:4] if is_pose else values)
        if box is None:
            text = f"line {number} must be a class followed by four numbers or a polygon, not by {len(values)} numbers"
            faults.append(Fault(str(file), text, "the line is left out"))
            continue
        x, y, w, h = box
        rows.append({"category_id": label, "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]})
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


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataError(f"{file} must not be larger than {MAX_BYTES} bytes, but the file has {file.stat().st_size}")
        content = _loaded(text_of(file))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise DataError(f"{file} is not valid YAML: {error.problem or error.context}{line}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{file} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file} must contain a mapping with 'train', 'val' and 'names', not {type(content).__name__}")
    return content


def _loaded(text: str) -> Any:
    """Parse YAML. Class names and paths are read as strings, also `no`, `010` and `12:30:00`."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value not in NUMBERS:
                _as_text(value, NAMES if key.value == "names" else PATHS)
        return loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def _as_text(node: yaml.Node, tags: frozenset[str]) -> None:
    """Change scalars with one of the tags to strings: the node itself, or the items of a list or a mapping."""
    inner = [node]
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    for each in inner:
        if isinstance(each, yaml.ScalarNode) and each.value and each.tag.rpartition(":")[2] in tags:
            each.tag = "tag:yaml.org,2002:str"


def _joined(folder: Path, path: str) -> Path:
    return folder / (Path(path).expanduser() if path.startswith("~/") else path)


def _moved(name: str, about: Description) -> Path | None:
    """Return what an absolute path of another machine means here: the same folder below the data set's folder."""
    if not (Path(name).is_absolute() or DRIVE.match(name)):
        return None
    parts = PurePosixPath(DRIVE.sub("", name)).parts
    for first in range(1, len(parts)):
        if len(parts) - first == 1 and not usual_split(Path(parts[-1]).stem):
            return None  # only "images" is left, which may be the images of any split
        for folder in (about.base, about.file.parent):
            if (source := folder.joinpath(*parts[first:])).exists():
                about.moved[source] = name
                return source
    return None


def _located(name: str, about: Description) -> Path:
    if "\0" in name:
        raise DataError(f"{about.file}: {name[:60]!r} is not a valid path")
    folder, slashed = about.file.parent, name.replace("\\", "/")
    candidates = [
        path
        for text in dict.fromkeys((name, slashed))
        for path in (_joined(about.base, text), folder / text, folder / text.removeprefix("../"))
    ]
    source = next((source for source in candidates if source.exists()), None) or _moved(slashed, about) or candidates[0]
    if not about.is_named and not is_inside(source, about.around):
        raise DataError(f"{about.file}: {name!r} lies outside the folder {about.around} and is not read; {about.advice()}")
    return source
