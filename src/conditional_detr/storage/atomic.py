"""Replacing a folder as a whole, so that a kill, a full disk or an error never leaves half of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from conditional_detr.errors import CheckpointError
from conditional_detr.storage.writing import writing


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A context that gives a new empty folder, which takes the place of `folder` if nothing went wrong.

    At any moment the old or the new one is whole, under `folder` or, for an instant, as `backup_of(folder)`: see `recover`.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." has no name to write beside
    new = folder.with_name(f".{folder.name}.new")
    with writing(folder, CheckpointError):
        if folder.is_file():
            raise CheckpointError(f"{folder} is a file: a checkpoint is a folder")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
    try:
        yield new
        _replace(folder, new)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]  # as safetensors puts it
        raise CheckpointError(f"{folder} cannot be written: {reason}. What stood there is whole") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def backup_of(folder: Path) -> Path:
    """Where a folder lies while a new one takes its place."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    return folder.with_name(f".{folder.name}.old")


def _replace(folder: Path, new: Path) -> None:
    for file in new.iterdir():
        file.chmod(new.stat().st_mode & 0o666)  # safetensors writes for its owner alone
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    backup = backup_of(folder)
    shutil.rmtree(backup, ignore_errors=True)
    if folder.exists():
        folder.rename(backup)
    new.rename(folder)
    shutil.rmtree(backup, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back what a kill between the two renames of a replacement left beside `folder`."""
    old = backup_of(folder)
    if old.exists() and not folder.exists():
        with suppress(FileNotFoundError):  # another process of the run was quicker
            old.rename(folder)
