"""Find the COCO files of a data set by their usual names, or by their content."""

import json
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conditional_detr.data.splits.names import split_in
from conditional_detr.images.file_types import is_visible

ROBOFLOW_FILE = "_annotations.coco.json"
ALL = "all"  # name of the only split of a data set without splits
FOLDERS = ("images", "data", "imgs", "img", "JPEGImages")  # usual names of folders of images
GENERAL = ("annotations", "labels", *map(str.lower, FOLDERS))  # folders whose names are not names of splits
LISTS = [re.compile(rb'"%s"\s*:\s*\[' % name) for name in (b"images", b"annotations", b"categories")]
FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')

Found = dict[str, tuple[Path, Path]]  # split → annotation file and folder of its images


def splits(root: Path) -> Found:
    """Find the annotation file of each split, and the folder of its images, by the usual file names.

    These names are ``SPLIT/_annotations.coco.json`` (Roboflow) and ``annotations/instances_SPLIT*.json``.
    """
    found: Found = {}
    for file in sorted(root.glob(f"*/{ROBOFLOW_FILE}")):
        if is_visible(file.parent.name):
            found[file.parent.name] = file, file.parent
    for file in sorted((root / "annotations").glob("instances_*.json")):
        stem = file.stem.removeprefix("instances_")
        name = stem.rstrip("0123456789") or stem
        found[stem if name in found else name] = file, _images_of(file, root, stem)
    return found


def splits_by_content(root: Path) -> Found:
    """Like `splits`, for files with other names.

    JSON files are searched in the folder, in ``annotations/`` and in other subfolders (two levels). Each file with the three
    lists of a COCO file is a split. The split is named after the file or its folder; if neither is the name of a split, it is
    "all".
    """
    found: Found = {}
    for file in _json_files(root):
        if _holds_lists(file):
            name = split_in(file.stem) or _folder_name(file, root) or ALL
            name = file.stem if name in found else name
            found.setdefault(name, (file, _images_of(file, root, name)))
    return found


def _json_files(root: Path) -> Iterator[Path]:
    """JSON files of the folder itself, of `annotations/` and of its other subfolders (two levels), in this order."""
    folders = _subfolders(root)
    folders.sort(key=lambda path: path.name.lower() not in GENERAL[:2])
    for folder in (root, *folders):
        for file in sorted(folder.glob("*")):
            if file.suffix.lower() == ".json" and is_visible(file.name) and file.is_file():
                yield file


def _folder_name(file: Path, root: Path) -> str | None:
    """Return the name of the folder of an annotation file if it can be the name of a split, otherwise None."""
    return None if file.parent == root or file.parent.name.lower() in GENERAL else file.parent.name


def _holds_lists(file: Path) -> bool:
    """Whether a JSON file has the three lists of a COCO file. It is not parsed, because it may be large."""
    with _bytes_of(file) as data:
        return all(pattern.search(data) for pattern in LISTS)


@contextmanager
def _bytes_of(file: Path) -> Iterator[bytes | mmap.mmap]:
    """Provide the bytes of a file, without reading all of it into memory. They are empty if it cannot be read."""
    try:
        opened = file.open("rb")
    except OSError:
        yield b""
        return
    with opened:
        try:
            data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # an empty file
            yield b""
            return
        with data:
            yield data


def _images_of(file: Path, root: Path, name: str) -> Path:
    """Return the folder that the file names of a COCO file are relative to: the first folder that has its first image."""
    first = _first_name(file)
    usual = [root / name, root / "images" / name, *(root / folder for folder in FOLDERS), root]
    beside = [] if file.parent.name.lower() in GENERAL else [file.parent]
    folders = [folder for folder in (*usual[:2], *beside, *usual[2:]) if folder.is_dir()]
    if first is None:
        return folders[0]
    return next((folder for folder in (*folders, *_subfolders(root)) if _has(folder, first)), folders[0])


def _subfolders(root: Path) -> list[Path]:
    """Subfolders of the folder of a data set, two levels deep."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and is_visible(path.name)]
    return folders + [
        path for folder in folders for path in sorted(folder.iterdir()) if path.is_dir() and is_visible(path.name)
    ]


def _first_name(file: Path) -> str | None:
    with _bytes_of(file) as data:
        match = FILE_NAME.search(data)
        return _parsed(match[1]) if match else None


def listed_names(file: Path) -> list[str]:
    """All file names in a COCO file. It is searched, not parsed."""
    with _bytes_of(file) as data:
        return [name for match in FILE_NAME.finditer(data) if (name := _parsed(match[1])) is not None]


def _parsed(text: bytes) -> str | None:
    try:
        return str(json.loads(text))
    except ValueError:
        return None


def _has(folder: Path, name: str) -> bool:
    try:
        return not Path(name).is_absolute() and ".." not in Path(name).parts and (folder / name).is_file()
    except (OSError, ValueError):
        return False
