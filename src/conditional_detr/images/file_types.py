"""Supported image formats, their suffixes, and the images in a folder."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

# EPS, PDF and WMF are never opened, because Pillow starts other programs for them. TGA is last, because it has no signature.
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
# Suffixes of other files that are common in image folders: labels, notes, code and caches.
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
SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "icon\r"})  # system files of macOS and Windows, in lower case


def open_image(source: Path | str | IO[bytes], formats: Sequence[str] = IMAGE_FORMATS) -> Image.Image:
    """Open an image in one of these formats, recognised by its content, not its suffix. Pixels are not decoded yet.

    Raises
    ------
    any error of Pillow's codecs; PIL.UnidentifiedImageError for a file of another format
    """
    Image.init()
    return Image.open(source, formats=[name for name in formats if name in Image.OPEN])


def is_image_name(file: Path) -> bool:
    """Whether a file has an image suffix, in upper or lower case."""
    return file.suffix.lower() in IMAGE_SUFFIXES


def is_note(file: Path) -> bool:
    """Whether a file is a label file, note, code or cache, by its suffix."""
    return file.suffix.lower() in NOTES


def is_visible(name: str | Path) -> bool:
    """Whether no part of a relative path is hidden. Hidden parts begin with a dot, or are system files such as `__MACOSX`."""
    parts = Path(name).parts
    return not any((part.startswith(".") and part != "..") or part.lower() in SYSTEM_FILES for part in parts)


def is_visible_in_list(name: str) -> bool:
    """Whether a path from a list or an annotation file is not hidden. Its folders may begin with a dot."""
    path = Path(name.replace("\\", "/"))
    return is_visible(path.name) and not {part.lower() for part in path.parts} & {"__macosx", ".ipynb_checkpoints"}


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden. Links to folders are followed. Each folder is visited once."""
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
    """Contents of a folder: its images and its other files, both sorted. Hidden files are left out."""

    images: list[Path]
    others: list[Path]


def folder_contents(folder: Path) -> Folder:
    """Return the images in a folder and its subfolders, and the other files."""
    files = sorted(files_below(folder))
    return Folder([f for f in files if is_image_name(f)], [f for f in files if not is_image_name(f)])


def describe_unsupported(files: Sequence[Path]) -> str:
    """Return the message about files whose suffix is not that of an image."""
    count = "1 file is" if len(files) == 1 else f"{len(files)} files are"
    return f"{count} not in a supported image format ({counted_suffixes(files)})"


def counted_suffixes(files: Iterable[Path]) -> str:
    """Count files by suffix, the most frequent first: ".heic: 3, .svg: 1"."""
    counts = Counter(file.suffix.lower() or "no suffix" for file in files)
    return ", ".join(f"{suffix}: {count}" for suffix, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
