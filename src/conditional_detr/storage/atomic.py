"""Replacing a folder as a whole, so that a kill, a full disk or an error never leaves half of one."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from conditional_detr.errors import CheckpointError


class atomic_folder:
    """A context that gives a new empty folder, which takes the place of `folder` if nothing went wrong.

    At any moment the old or the new one is whole, under `folder` or, for an instant, beside it as `old`: see `recover`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." has no name to write beside
        self.new, self.old = (self.folder.with_name(f".{self.folder.name}.{what}") for what in ("new", "old"))

    def __enter__(self) -> Path:
        try:
            if self.folder.is_file():
                raise CheckpointError(f"{self.folder} is a file: a checkpoint is a folder")
            shutil.rmtree(self.new, ignore_errors=True)
            self.new.mkdir(parents=True)
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be written: {error.strerror or error}") from None
        return self.new

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            try:
                self._swap()
                return
            except OSError as failed:
                error = failed
        shutil.rmtree(self.new, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]  # as safetensors puts it
            raise CheckpointError(f"{self.folder} cannot be written: {reason}. What stood there is whole") from None

    def _swap(self) -> None:
        for file in self.new.iterdir():
            file.chmod(self.new.stat().st_mode & 0o666)  # safetensors writes for its owner alone
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        shutil.rmtree(self.old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(self.old)
        self.new.rename(self.folder)
        shutil.rmtree(self.old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back what a kill between the two renames of a replacement left beside `folder`."""
    old = atomic_folder(folder).old
    if old.exists() and not folder.exists():
        with suppress(FileNotFoundError):  # another process of the run was quicker
            old.rename(folder)
