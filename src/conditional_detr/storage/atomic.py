"""Replace folders atomically, so that a kill, a full disk or an error never leaves an incomplete folder."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conditional_detr.errors import CheckpointError
from conditional_detr.storage.writing import writing


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A context that provides a new empty folder, which replaces `folder` at the end if there was no error.

    At any moment there is a complete folder, old or new. It is at `folder` or, for an instant, at `backup_of(folder)`. See
    `recover`.
    """
    from safetensors import SafetensorError  # which reading a model's name or an export does without

    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." has no name
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
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]  # wording of safetensors
        raise CheckpointError(f"{folder} cannot be written: {reason}. The previous contents are unchanged") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def backup_of(folder: Path) -> Path:
    """Path of the previous folder while a new one replaces it."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    return folder.with_name(f".{folder.name}.old")


def _replace(folder: Path, new: Path) -> None:
    for file in new.iterdir():
        file.chmod(new.stat().st_mode & 0o666)  # safetensors creates files that only their owner can read
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
    """Restore the previous folder if the process was killed between the two renames of a replacement."""
    old = backup_of(folder)
    if old.exists() and not folder.exists():
        with suppress(FileNotFoundError):  # another process of the run has already done it
            old.rename(folder)
