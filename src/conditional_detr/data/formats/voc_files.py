"""Find the XML files, the images and the splits of a Pascal VOC data set."""

from pathlib import Path

from conditional_detr.data.file_lookup import folded
from conditional_detr.data.formats.image_files import lines_of
from conditional_detr.data.splits.names import usual_split
from conditional_detr.images.file_types import files_below, folder_contents, is_note, is_visible

ANNOTATIONS = ("Annotations", "annotation", "xml", "xmls", "labels")
IMAGES = ("JPEGImages", "images", "imgs", "img")
ALL = "all"  # name of the only split of a data set without lists


class Folders:
    """The XML files and images of a data set, by stem (the file name without suffix)."""

    def __init__(self, root: Path) -> None:
        self.annotations = _child(root, ANNOTATIONS) or root / ANNOTATIONS[0]
        self.images = _child(root, IMAGES) or root
        self.xml_of: dict[str, list[Path]] = {}
        self.image_of: dict[str, list[Path]] = {}
        for file in sorted(files_below(self.annotations)):
            if file.suffix.lower() == ".xml":
                self.xml_of.setdefault(folded(file.stem), []).append(file)
        images, others = folder_contents(self.images)
        # Files in other formats come last. They are reported when they are opened.
        for file in (*images, *(file for file in others if not is_note(file))):
            self.image_of.setdefault(folded(file.stem), []).append(file)

    def find(self, name: str) -> tuple[Path | None, Path | None]:
        """Return the XML file and the image of a stem; None for each that does not exist."""
        return _of_stem(name, self.xml_of, self.annotations), _of_stem(name, self.image_of, self.images)


def _of_stem(name: str, known: dict[str, list[Path]], folder: Path) -> Path | None:
    """Return the file of a stem, which may contain folders. A file with exactly this spelling is preferred."""
    path = Path(name)
    fits = known.get(folded(path.name), [])
    fits = [file for file in fits if file.parent == folder / path.parent] or ([] if path.parent.parts else fits)
    return next((file for file in fits if file.stem == path.name), fits[0] if fits else None)


def _child(root: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first subfolder with one of these names, in upper or lower case."""
    folders = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}
    return next((folders[name.lower()] for name in names if name.lower() in folders), None)


def splits(root: Path) -> dict[str, Path]:
    """Return for each split its list of image names, or its folder of XML files.

    The folder may be `SPLIT/`, with images beside the XML files (Roboflow), `SPLIT/Annotations/` or `Annotations/SPLIT/`. Lists
    for single classes, such as `dog_train.txt`, are ignored.
    """
    found: dict[str, Path] = {}
    annotations = _child(root, ANNOTATIONS)
    for file in (file for folder in _list_folders(root) for file in sorted(folder.glob("*"))) if annotations else ():
        split = usual_split(file.stem)
        if split and file.suffix.lower() == ".txt" and is_visible(file.name):
            found.setdefault(split, file)
    for folder in (
        folder for parent in (root, annotations) if parent and parent.is_dir() for folder in sorted(parent.iterdir())
    ):
        split = usual_split(folder.name)
        inner = _child(folder, ANNOTATIONS)
        source = next((place for place in (folder, inner) if place and has_xml(place)), None)
        if split and source:
            found.setdefault(split, source)
    return found


def root_of(root: Path, source: Path) -> Path:
    """Return the folder that contains the annotations and the images of a split: that of the data set, or `SPLIT/`."""
    is_own = source.is_dir() and source.parent.parent == root and usual_split(source.parent.name) is not None
    return source.parent if is_own else root


def _list_folders(root: Path) -> list[Path]:
    """Folders that may contain the lists: ImageSets/Main/, ImageSets/ and the folder itself."""
    sets = _child(root, ("ImageSets",))
    main = sets and _child(sets, ("Main",))
    return [folder for folder in (main, sets, root) if folder]


def listed_names(root: Path) -> list[str]:
    """The names in all lists of the data set, also in those that are no split, such as `dog_train.txt`."""
    files = [file for folder in _list_folders(root) for file in sorted(folder.glob("*.txt")) if is_visible(file.name)]
    return [name for file in files for line in lines_of(file) for name in (line, line.split()[0])]


def without_splits(root: Path) -> dict[str, Path]:
    """Return the folder of the XML files of a data set without lists, as one split named "all"."""
    folders = (_child(root, ANNOTATIONS), root)
    return next(({ALL: folder} for folder in folders if folder is not None and has_xml(folder)), {})


def has_xml(folder: Path) -> bool:
    return folder.is_dir() and any(file.suffix.lower() == ".xml" and is_visible(file.name) for file in folder.iterdir())
