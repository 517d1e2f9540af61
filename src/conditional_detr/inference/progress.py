"""Progress of long loops: the command line passes in a function that draws a bar."""

from collections.abc import Callable, Iterable
from typing import Any

# (items, their number, what is done with them) → the same items
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]


def untracked(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
    """The items, without showing progress."""
    return items
