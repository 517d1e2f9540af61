"""Label files that are missing: where they were looked for, and where files of the same names are."""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from conditional_detr.data.findings import ERROR, WARNING
from conditional_detr.data.formats.image_files import Fault, is_file

MOST_FOLDERS = 200  # searched for the label files


def missing_labels(images: Sequence[Path], label_file: Callable[[Path], Path]) -> list[Fault]:
    """A fault if no image of a split has a label file. It is an error if label files of these names are in another folder."""
    files = [label_file(image) for image in images]
    if not files or any(is_file(file) for file in files):
        return []
    text = f"none of the {len(files)} images has a label file. They were looked for as {files[0]}"
    names = {file.name.lower() for file in files}
    counts = {folder: sum(file.name.lower() in names for file in _files(folder)) for folder in _near(files[0].parent)}
    place = max(counts, key=lambda folder: counts[folder], default=None)
    if place is None or not counts[place]:
        return [Fault(str(files[0].parent), text, "", "labels-missing", WARNING)]
    text += f". {place} has {counts[place]} files with the names of these images: rename the folder {place.name!r}"
    return [Fault(str(files[0].parent), text, "", "labels-missing", ERROR)]


def _near(folder: Path) -> list[Path]:
    """Folders beside a folder and beside its parent, and their subfolders."""
    around = [each for top in (folder.parent, folder.parent.parent) for each in _folders(top)]
    found = [each for top in around for each in (top, *_folders(top)) if each != folder]
    return list(islice(dict.fromkeys(found), MOST_FOLDERS))


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
