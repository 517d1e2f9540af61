"""Convert errors of the operating system while writing files to errors of this library."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conditional_detr.errors import ConditionalDETRError


@contextmanager
def writing(path: Path, kind: type[ConditionalDETRError]) -> Iterator[None]:
    """Context manager that raises an error of the given class, with the reason, if `path` cannot be written."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} cannot be written: {error.strerror or error}") from None
