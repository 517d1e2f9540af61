"""What the command line says to people, and the files of figures that it leaves."""

import sys
from pathlib import Path
from typing import Any

from conditional_detr.errors import ConfigError
from conditional_detr.storage.writing import writing

ENDLESS = 1000  # columns: a file or a pipe has room for whole lines


def note_doubts(source: str) -> None:
    """A model name is a network with a pretrained backbone, not a trained detector; an export may have failed its proof."""
    from conditional_detr.weights import exported
    from conditional_detr.weights.discovery import find_checkpoint

    path = find_checkpoint(source)
    if path is None:
        print(f"note: {source} is a model name: its decoder is not trained, so what it finds is noise", file=sys.stderr)
    elif exported.claims(path) and exported.read_proof(path).get("passed") is False:
        print(f"note: {source} did not pass its proof when it was exported: see {path / exported.PROOF}", file=sys.stderr)


def make_folder(output: Path) -> None:
    """Before the work, so that a place that cannot be written costs none."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"{output} is a file: --output wants a folder") from None
    except OSError as error:
        raise ConfigError(f"{output} cannot be made: {error.strerror or error}") from None


def write_json(file: Path, content: Any) -> None:
    import json

    with writing(file, ConfigError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def print_metrics(metrics: Any) -> None:
    """The twelve figures and AP per class, as tables."""
    from rich.console import Console
    from rich.table import Table

    from conditional_detr.evaluation.coco import FIGURES

    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    console = Console(highlight=False, markup=False)
    for names in (FIGURES[:6], FIGURES[6:]):
        table = Table(*names, box=None, padding=(0, 2), header_style="bold")
        table.add_row(*(cell(getattr(metrics, name)) for name in names))
        console.print(table)
    classes = Table("class", "AP", box=None, padding=(0, 2), header_style="bold")
    for name, value in metrics.per_class.items():
        classes.add_row(name, cell(value))
    console.print(classes)


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table of texts; the first column names the row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else ENDLESS
    Console(highlight=False, markup=False, width=width).print(table)
