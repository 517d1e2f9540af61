"""Writing files: what the system refuses is an error of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conditional_detr.errors import ConditionalDETRError


@contextmanager
def writing(path: Path, kind: type[ConditionalDETRError]) -> Iterator[None]:
    """A context that raises an error of the given kind, with the reason, where `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} cannot be written: {error.strerror or error}") from None
