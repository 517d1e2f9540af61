"""Which files are images: the formats that are opened, their suffixes, and the images in a folder."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

# Never EPS, PDF or WMF: for these Pillow starts other programs. TGA is last, because its files have no signature.
IMAGE_FORMATS = ("JPEG", "PNG", "MPO", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP", "AVIF", "TGA")
IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        "apng",
        "avif",
        "bmp",
        "gif",
        "icb",
        "j2c",
        "j2k",
        "jfif",
        "jp2",
        "jpc",
        "jpe",
        "jpeg",
        "jpf",
        "jpg",
        "jpx",
        "mpo",
        "pbm",
        "pgm",
        "png",
        "pnm",
        "ppm",
        "tga",
        "tif",
        "tiff",
        "vda",
        "vst",
        "webp",
    )
)
# Suffixes of files that lie among images and are none: labels, notes, code and caches.
NOTES = frozenset(
    f".{suffix}"
    for suffix in (
        "cache",
        "csv",
        "db",
        "html",
        "ini",
        "ipynb",
        "json",
        "jsonl",
        "log",
        "md",
        "names",
        "npy",
        "npz",
        "parquet",
        "py",
        "sh",
        "toml",
        "tsv",
        "txt",
        "xml",
        "yaml",
        "yml",
    )
)
SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "icon\r"})  # of macOS and Windows, in lower case


def open_image(source: Path | str | IO[bytes]) -> Image.Image:
    """Open an image of one of `IMAGE_FORMATS`; what it holds counts, not its suffix. Its pixels are not decoded yet.

    Raises
    ------
    any error of Pillow's codecs; PIL.UnidentifiedImageError for a file of another format
    """
    Image.init()
    return Image.open(source, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN])


def is_image_name(file: Path) -> bool:
    """Whether a file has the suffix of an image, in upper or lower case."""
    return file.suffix.lower() in IMAGE_SUFFIXES


def is_note(file: Path) -> bool:
    """Whether a file among images is, by its suffix, one of labels, notes or code."""
    return file.suffix.lower() in NOTES


def is_visible(name: str | Path) -> bool:
    """Whether no part of a relative path is hidden: it begins with a dot, or is a system file such as `__MACOSX`."""
    parts = Path(name).parts
    return not any((part.startswith(".") and part != "..") or part.lower() in SYSTEM_FILES for part in parts)


def is_visible_in_list(name: str) -> bool:
    """Whether a path that a list or an annotation file names is not hidden. Its leading folders may begin with a dot."""
    path = Path(name.replace("\\", "/"))
    return is_visible(path.name) and not {part.lower() for part in path.parts} & {"__macosx", ".ipynb_checkpoints"}


def files_below(folder: Path) -> Iterator[Path]:
    """All visible files in a folder and its subfolders. Links to folders are followed, each folder is visited once."""
    visited: set[tuple[int, int]] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        try:
            entry = Path(here).stat()
        except OSError:
            folders.clear()
            continue
        if (entry.st_dev, entry.st_ino) in visited:
            folders.clear()
            continue
        visited.add((entry.st_dev, entry.st_ino))
        folders[:] = sorted(name for name in folders if is_visible(name))
        yield from (Path(here, name) for name in sorted(files) if is_visible(name))


class Folder(NamedTuple):
    """Contents of a folder: its images, and its other visible files, both sorted."""

    images: list[Path]
    others: list[Path]


def folder_contents(folder: Path) -> Folder:
    """The images in a folder and its subfolders, and the other files."""
    files = sorted(files_below(folder))
    return Folder([f for f in files if is_image_name(f)], [f for f in files if not is_image_name(f)])


def passed_over(files: Sequence[Path]) -> str:
    """The sentence about files of a folder that are no images by their suffix."""
    count = "1 file is" if len(files) == 1 else f"{len(files)} files are"
    return f"{count} not in a supported image format ({counted_suffixes(files)})"


def counted_suffixes(files: Iterable[Path]) -> str:
    """Files by suffix, most frequent first: ".heic: 3, .svg: 1"."""
    counts = Counter(file.suffix.lower() or "no suffix" for file in files)
    return ", ".join(f"{suffix}: {count}" for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
