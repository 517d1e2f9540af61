"""Where a split is, and what lies inside its data set's folder."""

import os
from pathlib import Path
from typing import NamedTuple


class SplitLocation(NamedTuple):
    """Where a split is.

    Attributes
    ----------
    split : its name, as its folder has it
    file : what its annotations are read from
    images : the folder that file names start from
    root : the data set's folder, which nothing may leave
    """

    split: str
    file: Path
    images: Path
    root: Path


def is_inside(path: Path, root: Path) -> bool:
    """By what is written, so that a folder of images may be a link to elsewhere; or by where it truly is."""
    written, top = (Path(os.path.abspath(p)) for p in (path, root))  # noqa: PTH100
    return written.is_relative_to(top) or path.resolve().is_relative_to(root.resolve())
