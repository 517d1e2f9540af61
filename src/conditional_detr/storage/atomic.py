"""Replace folders atomically: a kill, a full disk or an error never leaves an incomplete folder."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conditional_detr.errors import CheckpointError
from conditional_detr.storage.writing import writing


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Context manager that provides a new empty folder. At the end it replaces `folder`, unless there was an error.

    A complete folder, old or new, exists at any time. It is `folder` or, between two renames, `backup_of(folder)`: see
    `recover`.
    """
    from safetensors import SafetensorError  # imported here, because model names and exports do not need it

    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - Path(".").name is empty
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
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]  # the wording of safetensors
        raise CheckpointError(f"{folder} cannot be written: {reason}. The previous contents are unchanged") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def backup_of(folder: Path) -> Path:
    """Return the path of the old folder while a new one replaces it."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    return folder.with_name(f".{folder.name}.old")


def _replace(folder: Path, new: Path) -> None:
    mode = new.stat().st_mode
    for file in new.rglob("*"):
        if file.is_dir():
            continue
        file.chmod(mode & 0o666)  # safetensors makes files readable by their owner only
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
    """Restore the old folder if a process was killed between the two renames of a replacement."""
    old = backup_of(folder)
    if old.exists() and not folder.exists():
        with suppress(FileNotFoundError):  # another process of the run has already restored it
            old.rename(folder)
