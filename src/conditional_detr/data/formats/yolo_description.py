"""The YAML file of a YOLO data set: class names, and the folders or lists of images of each split."""

from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from conditional_detr.data.annotations import as_id
from conditional_detr.data.file_lookup import DRIVE, exists
from conditional_detr.data.formats.image_files import (
    lines_of,
)
from conditional_detr.data.splits.location import is_inside
from conditional_detr.data.splits.names import usual_split
from conditional_detr.data.text import text_of
from conditional_detr.errors import DataError
from conditional_detr.images.file_types import is_visible
from conditional_detr.storage.json import without_surrogates

YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
MAX_BYTES = 2**20  # largest YAML file
CLASS_LISTS = ("classes.txt", "obj.names", "labels/classes.txt", "train/classes.txt", "train/labels/classes.txt")
ALL = "all"  # name of the only split of a data set without splits
NUMBERS = ("nc", "kpt_shape")  # keys of the YAML file whose values are numbers
PATHS = frozenset({"bool", "int", "float", "timestamp"})  # YAML types of paths that are read as strings
NAMES = PATHS | {"null"}  # YAML types of class names that are read as strings


def description(root: Path) -> Path | None:
    """Return the YAML file of a YOLO data set, or None. One of another name is known by its content, if there is only one."""
    usual = next((root / name for name in YAMLS if (root / name).is_file()), None)
    if usual is not None:
        return usual
    found = [file for file in sorted(root.glob("*.y*ml")) if is_visible(file.name) and _describes_data(file)]
    return found[0] if len(found) == 1 else None


def _describes_data(file: Path) -> bool:
    """Whether a YAML file has class names and the path of a split."""
    try:
        content = _read(file)
    except DataError:
        return False
    return "names" in content and any(usual_split(str(key)) for key in content)


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
        base = path if exists(path) and path.is_dir() and (is_named or is_inside(path, file.absolute().parent.parent)) else base
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
            if exists(source := folder.joinpath(*parts[first:])):
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
    source = next((source for source in candidates if exists(source)), None) or _moved(slashed, about) or candidates[0]
    if not about.is_named and not is_inside(source, about.around):
        raise DataError(f"{about.file}: {name!r} lies outside the folder {about.around} and is not read; {about.advice()}")
    return source
