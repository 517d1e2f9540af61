"""The location of a split on disk, and the check that a path lies inside the data set's folder."""

import os
from pathlib import Path
from typing import NamedTuple


class SplitLocation(NamedTuple):
    """Location of a split on disk.

    Attributes
    ----------
    split : name of the split, as spelled in the data set
    file : file or folder that the annotations are read from
    images : folder that the file names of images are relative to
    root : folder of the data set. Files outside it are not read
    also : additional folders that may be read, because the user named them. Links that lead out of them are not followed
    resolved : whether the reader has already found the images and returns their paths
    """

    split: str
    file: Path
    images: Path
    root: Path
    also: tuple[Path, ...] = ()
    resolved: bool = False

    def contains(self, path: Path) -> bool:
        """Whether a path lies in a folder that may be read."""
        return is_inside(path, self.root) or any(path.resolve().is_relative_to(folder.resolve()) for folder in self.also)


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path lies inside a folder, as written or after links are resolved.

    The path as written is enough, so an image folder may be a symbolic link to another location.
    """
    written, top = (Path(os.path.abspath(p)) for p in (path, root))  # noqa: PTH100
    return written.is_relative_to(top) or path.resolve().is_relative_to(root.resolve())
