"""Detect the format of a data set and find its splits: COCO, YOLO, Pascal VOC or Hugging Face's imagefolder."""

import contextlib
import os
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from conditional_detr.data.annotations import image_key
from conditional_detr.data.findings import Finding
from conditional_detr.data.formats import coco_files, imagefolder, voc, voc_files, yolo, yolo_description
from conditional_detr.data.formats.coco_files import ROBOFLOW_FILE
from conditional_detr.data.formats.image_files import Fault, unlisted_images
from conditional_detr.data.splits.location import SplitLocation
from conditional_detr.data.splits.names import USUAL, usual_split
from conditional_detr.errors import DataError, shortened_list
from conditional_detr.images.file_types import counted_suffixes, files_below, is_visible, is_visible_in_list
from conditional_detr.storage.json import read_json_object

LISTS = ("images", "annotations", "categories")
LAYOUTS = (
    f"COCO: SPLIT/{ROBOFLOW_FILE}, or annotations/instances_SPLIT.json with the images in SPLIT/ or images/SPLIT/, or any JSON "
    "file with the lists images, annotations and categories; YOLO: "
    "data.yaml; Pascal VOC: Annotations/ and ImageSets/Main/SPLIT.txt, or SPLIT/*.xml; imagefolder: SPLIT/metadata.jsonl"
)

MAX_FOLDERS = 100  # subfolders in which a data set is looked for
MAX_FILES = 10_000  # files that an error message counts
MAX_FAULTS = 3  # faults of each kind that an error message lists

Content = dict[str, Any]


class SplitSource(NamedTuple):
    """A split of a data set that has been found but not read.

    Attributes
    ----------
    format : "COCO", "YOLO", "Pascal VOC" or "imagefolder"
    location : location of the split on disk
    reader : function that reads the split. It returns its COCO content and the parts that could not be read
    """

    format: str
    location: SplitLocation
    reader: Callable[[], tuple[Content, list[Fault]]]

    def read(self) -> tuple[Content, list[Finding]]:
        """Read the split. Returns its COCO content, and a finding for each part that could not be read."""
        content, faults = self.reader()
        if not content["categories"] and faults:
            raise DataError(f"{self.location.file} lists no categories. Faults: {described(faults)}")
        return content, [Finding(f.code, self.location.split, f.file, None, f.message, f.severity, f.fix) for f in faults]


def described(faults: Sequence[Fault | Finding]) -> str:
    """For each kind of fault, the number of faults and the first few of them."""
    by_code: dict[str, list[Fault | Finding]] = {}
    for fault in faults:
        by_code.setdefault(fault.code, []).append(fault)
    parts = []
    for code, found in by_code.items():
        first = "; ".join(f"{fault.file}: {fault.message}" for fault in found[:MAX_FAULTS])
        parts.append(f"{len(found)} of {code} ({first}{'; …' if len(found) > MAX_FAULTS else ''})")
    return ", ".join(parts)


def find_source(folder: str | Path, split: str) -> SplitSource:
    """Find a split of a data set.

    Raises
    ------
    DataError : there is no such split; the message lists the supported layouts and the splits that were found
    """
    root = Path(folder)
    if not root.is_dir() and not _is_yaml(root):
        raise DataError(f"{root} is not a folder: --data must be a data set (supported layouts: {LAYOUTS})")
    found = sources(root)
    if split not in found:
        split, found = usual_split(split) or split, by_usual_name(found)
    if split in found:
        return found[split]
    if found:
        raise DataError(f"{root} has no split {split!r}. It has: {', '.join(sorted(found))}. {how_to_split(root, split)}")
    raise unknown_layout(root)


def unknown_layout(root: Path) -> DataError:
    """Return the error for a folder in which no data set was found. It lists the layouts, and what the folder contains."""
    found = f". It contains {_contents(root)}" if root.is_dir() else ""
    return DataError(f"{root} is not a data set: none of the supported layouts was found there ({LAYOUTS}){found}")


def _contents(root: Path) -> str:
    """Describe the folders and the number of files by suffix."""
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and is_visible(path.name)]
    files = counted_suffixes(islice(files_below(root), MAX_FILES))
    parts = [f"the folders {shortened_list(folders, 5)}" if folders else "", f"files ({files})" if files else ""]
    return " and ".join(filter(None, parts)) or "nothing"


def how_to_split(root: Path, split: str) -> str:
    """Return the sentence that names the command for making splits."""
    command, folder = "cdetr data split", shlex.quote(str(root))
    if split == "test":
        return (
            f"`{command} {folder} OUT --valid 0.2 --test 0.1` makes a test split. Then train again: the new test images may be "
            "training images of this model"
        )
    return f"`{command} {folder} OUT --valid 0.2` divides its images into the splits train and valid"


def sources(root: Path, depth: int = 2) -> dict[str, SplitSource]:
    """All splits of a data set by name, in the first format that is found.

    `root` may also be the YAML file of a YOLO data set. If nothing is found, the data set may lie in a subfolder, up to `depth`
    levels below. The dict is empty if no format is found.
    """
    path = Path(os.path.abspath(root))  # noqa: PTH100 · normalises ".." without resolving links
    if _is_yaml(path):
        return _yolo(yolo_description.described(path, is_named=True))
    if not path.is_dir():
        return {}
    for find in (_coco, _yolo_folder, _voc, _imagefolder, _coco_by_content, _voc_without_splits, _yolo_without_description):
        if found := find(path):
            return found
    return _inside(path, depth)


def _inside(root: Path, depth: int) -> dict[str, SplitSource]:
    """Return the splits of the only data set in the subfolders of a folder, for example of an archive; else an empty dict."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and is_visible(path.name)] if depth else []
    found = []
    for folder in folders[:MAX_FOLDERS]:
        with contextlib.suppress(OSError, DataError):  # it is not the data set, or cannot be read
            found += [inner] if (inner := sources(folder, depth - 1)) else []
    return found[0] if len(found) == 1 else {}


def by_usual_name(found: dict[str, SplitSource]) -> dict[str, SplitSource]:
    """Rename splits to train, valid and test. If two splits would get the same name, the second one keeps its own name."""
    names: dict[str, str] = {}
    for name in sorted(found, key=lambda name: (name not in USUAL.values(), name)):
        usual = usual_split(name)
        names[name] = usual if usual and usual not in names.values() else name
    return {names[name]: source for name, source in found.items()}


def _is_yaml(file: Path) -> bool:
    return file.suffix.lower() in (".yaml", ".yml") and file.is_file()


def read_json(file: Path) -> Content:
    """Read a COCO file and check that it has its three lists of JSON objects."""
    content = read_json_object(file, DataError)
    check_lists(content, str(file))
    return content


def check_lists(content: Content, origin: str) -> None:
    """Check that COCO content has the lists "images", "annotations" and "categories", and that they hold JSON objects."""
    for key in LISTS:
        rows = content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{origin} is not a COCO file: {key!r} must be a list of JSON objects")


def _coco(root: Path, find: Callable[[Path], coco_files.Found] = coco_files.splits) -> dict[str, SplitSource]:
    found = find(root)
    return {
        name: SplitSource("COCO", SplitLocation(name, file, images, root), partial(_read_coco, file, images, found))
        for name, (file, images) in found.items()
    }


def _coco_by_content(root: Path) -> dict[str, SplitSource]:
    return _coco(root, coco_files.splits_by_content)


def _read_coco(file: Path, images: Path, splits: coco_files.Found) -> tuple[Content, list[Fault]]:
    """Read a COCO file. Hidden files listed as images without annotations are ignored."""
    content = read_json(file)
    used = {image_key(row.get("image_id")) for row in content["annotations"]}
    rows = [
        row
        for row in content["images"]
        if is_visible_in_list(str(row.get("file_name"))) or image_key(row.get("id")) in used or "file_name" not in row
    ]
    names = [str(row.get("file_name")) for row in rows]
    for other, folder in splits.values():
        if other != file and (folder.is_relative_to(images) or images.is_relative_to(folder)):
            names += coco_files.listed_names(other)
    return content | {"images": rows}, unlisted_images([images], names)


def _yolo(about: yolo.Description) -> dict[str, SplitSource]:
    found = {}
    for name, image_sources in yolo_description.splits(about).items():
        also = yolo.further_folders(about, image_sources)
        root = about.file.parent  # root.parent: `path` may point to a sibling folder
        location = SplitLocation(name, about.file, root, root.parent, also, resolved=True)
        found[name] = SplitSource("YOLO", location, partial(yolo.read, about, image_sources, location))
    return found


def _yolo_folder(root: Path) -> dict[str, SplitSource]:
    file = yolo_description.description(root)
    return _yolo(yolo_description.described(file, is_named=False)) if file else {}


def _yolo_without_description(root: Path) -> dict[str, SplitSource]:
    about = yolo_description.without_description(root)
    return _yolo(about) if about else {}


def _voc(root: Path, find: Callable[[Path], dict[str, Path]] = voc_files.splits) -> dict[str, SplitSource]:
    found = {}
    for name, file in find(root).items():
        location = SplitLocation(name, file, root, root, resolved=True)
        found[name] = SplitSource("Pascal VOC", location, partial(voc.read, root, file, location))
    return found


def _voc_without_splits(root: Path) -> dict[str, SplitSource]:
    return _voc(root, voc_files.without_splits)


def _imagefolder(root: Path) -> dict[str, SplitSource]:
    found = {}
    for name, file in imagefolder.splits(root).items():
        location = SplitLocation(name, file, file.parent, root, resolved=True)
        found[name] = SplitSource("imagefolder", location, partial(imagefolder.read, file, location))
    return found
