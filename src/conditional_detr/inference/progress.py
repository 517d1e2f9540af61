"""Progress of long work: the command line passes in a function that shows it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

# (items, their number, what is done with them) → the same items
Track = Callable[[Iterable[Any], int, str], Iterable[Any]]
Report = Callable[[str], None]  # is told what is being done


def untracked(items: Iterable[Any], total: int, description: str) -> Iterable[Any]:
    """The items, without showing progress."""
    return items


def unreported(doing: str) -> None:
    """Do not show what is being done."""


def counted(items: Iterable[Any], total: int, doing: str, report: Report) -> Iterator[Any]:
    """The items. Before each one is made, its number is reported: "doing 3 of 8"."""
    number = 1
    report(f"{doing} 1 of {total}")
    for item in items:
        yield item
        number += 1
        if number <= total:
            report(f"{doing} {number} of {total}")
