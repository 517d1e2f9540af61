"""Memory that the C library keeps between training steps."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
KEEP = 2**31 - 1, 2**30  # bytes: values that keep blocks of this size, so practically all
USUAL = 64 * 2**20, 32 * 2**20  # bytes: the largest values that glibc itself would choose


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Context manager in which glibc keeps freed memory for later allocations, and returns it to the system at the end.

    A training step allocates and frees the same large blocks again and again. By default many of them come from the system,
    which clears them page by page. Other C libraries are left as they are.
    """
    glibc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if glibc is None:
        yield
        return
    set_thresholds(glibc, KEEP)
    try:
        yield
    finally:
        set_thresholds(glibc, USUAL)
        glibc.malloc_trim(0)


def set_thresholds(glibc: ctypes.CDLL, values: tuple[int, int]) -> None:
    """Set from which size on free memory at the top goes back to the system, and blocks are mapped alone, bytes."""
    for parameter, value in zip((TRIM_THRESHOLD, MMAP_THRESHOLD), values, strict=True):
        glibc.mallopt(parameter, value)
