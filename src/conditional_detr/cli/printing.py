"""Output of the command line: text, tables and JSON files.

In a terminal, text is wrapped at the width of the terminal and headings are bold. In a pipe or a file, lines are not wrapped
and have no styles.
"""

import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from conditional_detr.errors import ConfigError
from conditional_detr.storage.writing import writing

UNLIMITED = 100_000  # line width for a pipe or a file, in columns
Item = TypeVar("Item")


def console(file: IO[str] | None = None) -> Any:
    """Return a rich console for a stream (default: stdout). It wraps lines only in a terminal."""
    from rich.console import Console

    file = file or sys.stdout
    return Console(file=file, highlight=False, markup=False, emoji=False, width=None if file.isatty() else UNLIMITED)


def print_text(text: str, style: str | None = None, file: IO[str] | None = None) -> None:
    """Print a sentence (default: to stdout). In a terminal it is wrapped between words."""
    stream = file or sys.stdout
    if stream.isatty():
        console(stream).print(text, style=style)
    else:
        print(text, file=stream, flush=True)


def print_note(text: str) -> None:
    """Print a note to stderr."""
    print_text(f"note: {text}", "yellow", sys.stderr)


def print_written(*files: Path) -> None:
    """Print the names of the files that a command wrote."""
    names = [str(file) for file in files]
    print_text("Wrote " + (" and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]))


def print_next(purpose: str, *words: str | Path) -> None:
    """Print the command that the user probably needs next, quoted for the shell."""
    print_text(f"To {purpose}: {shlex.join(map(str, words))}", "bold")


def track(items: Iterable[Item], total: int, description: str) -> Iterable[Item]:
    """Return the items. If stderr is a terminal, it shows a progress bar and the time left."""
    return _with_bar(items, total, description) if sys.stderr.isatty() else items


def _with_bar(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(sys.stderr), transient=True) as progress:
        yield from progress.track(items, total, description=description)


def print_source_notes(source: str) -> None:
    """Print a note if the source is not a trained model, or is an export that did not pass its proof.

    A model name is a network with a pretrained backbone, not a trained detector.
    """
    from conditional_detr.weights.exported import PROOF, read_proof
    from conditional_detr.weights.recognise import find_checkpoint, is_export

    path = find_checkpoint(source)
    if path is None:
        print_note(
            f"{source} is a model name, not a trained model. Its decoder has random weights, so its detections mean nothing."
        )
    elif is_export(path) and read_proof(path).get("passed") is False:
        print_note(f"{source} did not pass its proof when it was exported: see {path / PROOF}")


def make_folder(output: Path) -> None:
    """Create the output folder. Call this before the work begins, so that an invalid path is reported early."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{output} is a file: --output needs a folder") from None
    except OSError as error:
        raise ConfigError(f"{output} cannot be created: {error.strerror or error}") from None


def write_json(file: Path, content: Any, indent: int | None = 1) -> None:
    """Write a JSON file, and create its folder if needed."""
    import json

    with writing(file, ConfigError):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Bytes of a file name that are not valid UTF-8 are written as JSON escapes.
        text = json.dumps(content, indent=indent, ensure_ascii=False)
        file.write_text(text, encoding="utf-8", errors="backslashreplace")


def print_json(content: Any) -> None:
    """Print one line of JSON. If stdout is not UTF-8, other characters than ASCII are written as JSON escapes."""
    import json

    is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    print(json.dumps(content, ensure_ascii=not is_unicode))


def print_metrics(metrics: Any, intervals: dict[str, Any]) -> None:
    """Print the twelve COCO metrics, the intervals of AP and AP50, and the AP of each class."""
    from conditional_detr.evaluation.coco import FIGURES

    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    for names in (FIGURES[:6], FIGURES[6:]):
        print_table(list(names), [[cell(getattr(metrics, name)) for name in names]])
    if ranges := [f"{name} {bounds[0]:.3f} to {bounds[1]:.3f}" for name, bounds in intervals.items() if bounds]:
        print_text(f"95 % intervals for images of this kind: {', '.join(ranges)}")
    print_table(["class", "AP"], [[name, cell(value)] for name, value in metrics.per_class.items()])


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table. The first column holds the names of the rows."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def print_facts(facts: dict[str, str]) -> None:
    """Print names and values, one pair per line."""
    from rich.table import Table

    if not sys.stdout.isatty():
        width = max(map(len, facts), default=0)
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, value)
    console().print(table)
