"""Report the progress of long operations. The caller passes in a function that shows it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

# (items, number of items, description) → the same items
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
Report = Callable[[str], None]  # function that receives a line of progress


def untracked(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
    """Return the items without showing progress."""
    return items


def unreported(activity: str) -> None:
    """Ignore a line of progress."""


def counted(items: Iterable[Any], total: int, activity: str, report: Report) -> Iterator[Any]:
    """Yield the items. Before each item is computed, its number is reported, for example "calibration image 3 of 8"."""
    number = 1
    report(f"{activity} 1 of {total}")
    for item in items:
        yield item
        number += 1
        if number <= total:
            report(f"{activity} {number} of {total}")
