"""Report missing label files: the expected path, and other folders that have files of these names."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from conditional_detr.data.findings import ERROR, WARNING
from conditional_detr.data.formats.image_files import Fault, is_file
from conditional_detr.errors import plural

MAX_FOLDERS = 200  # number of folders that are searched for the label files


def missing_labels(images: Sequence[Path], label_file: Callable[[Path], Path]) -> list[Fault]:
    """Return a fault if no image of a split has a label file. It is an error if another folder has files of these names."""
    files = [label_file(image) for image in images]
    if not files or any(is_file(file) for file in files):
        return []
    text = f"no label file was found for any image ({plural(len(files), 'image')}). Expected, for example: {files[0]}"
    names = {file.name.lower() for file in files}
    counts = {folder: sum(file.name.lower() in names for file in _files(folder)) for folder in _near(files[0].parent)}
    place = max(counts, key=lambda folder: counts[folder], default=None)
    if place is None or not counts[place]:
        return [Fault(str(files[0].parent), text, "", "labels-missing", WARNING)]
    text += f". {place} has {plural(counts[place], 'file')} with the names of these images: rename the folder {place.name!r}"
    return [Fault(str(files[0].parent), text, "", "labels-missing", ERROR)]


def _near(folder: Path) -> list[Path]:
    """Sibling folders of a folder and of its parent, and their subfolders."""
    around = [each for top in (folder.parent, folder.parent.parent) for each in _folders(top)]
    found = [each for top in around for each in (top, *_folders(top)) if each != folder]
    return list(islice(dict.fromkeys(found), MAX_FOLDERS))


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError:
        return []


def _files(folder: Path) -> list[Path]:
    try:
        return [each for each in folder.iterdir() if each.suffix.lower() == ".txt"]
    except OSError:
        return []
