"""Compare several runs: their curves, the settings that differ, and the epochs and time that each needs to reach an AP."""

import csv
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from statistics import mean
from typing import Any

from conditional_detr.config.messages import build
from conditional_detr.config.run import RunConfig
from conditional_detr.config.toml import flat, read_toml
from conditional_detr.errors import ConfigError, RunError, plural
from conditional_detr.evaluation import plots
from conditional_detr.evaluation.pages import ap, duration, embedded, versions, write_page
from conditional_detr.storage.run_files import CONFIG, METRICS

PAGE, TABLE, IMAGE = "comparison.html", "comparison.csv", "curves.png"
NEEDED = ("AP", "AP50", "loss", "seconds")  # required columns of metrics.jsonl
SHARES = (0.25, 0.5, 0.75)  # default AP levels, as fractions of the highest AP
# Settings that may differ within a group of runs.
SAME = frozenset({"seed", "output"})

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Attributes
    ----------
    name : name of the group in tables and plots
    settings : flat settings, without those that may differ within the group
    runs : for each run its rows of `metrics.jsonl`
    folders : the run folders
    """

    name: str
    settings: dict[str, Any]
    runs: list[Rows]
    folders: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Reached:
    """Epochs and seconds from the start until each run of a group reaches an AP; None for a run that never does."""

    epochs: list[int | None]
    seconds: list[float | None]


def epochs_to(rows: Rows, ap: float) -> int | None:
    """The first epoch (counted from 1) with at least the given AP, or None."""
    return next((i for i, row in enumerate(rows, 1) if row["AP"] is not None and row["AP"] >= ap), None)


def reached(group: Group, ap: float) -> Reached:
    """Epochs and seconds until each run of a group reaches an AP."""
    epochs = [epochs_to(rows, ap) for rows in group.runs]
    seconds = [
        None if at is None else float(sum(row["seconds"] for row in rows[:at]))
        for rows, at in zip(group.runs, epochs, strict=True)
    ]
    return Reached(epochs, seconds)


def best_row(rows: Rows) -> dict[str, Any]:
    """The epoch with the highest AP."""
    return max(rows, key=lambda row: -1.0 if row["AP"] is None else row["AP"])


def read_groups(folders: list[Path]) -> list[Group]:
    """Read run folders and group runs that differ only in their seed, in the order in which they are given.

    A run that was stopped before its last epoch forms its own group, and so does a second run with the same seed.

    Raises
    ------
    ConfigError : a folder is not a run folder, or is given twice
    RunError : a run has no finished epoch, or invalid rows
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if not (path / CONFIG).is_file():
            raise ConfigError(f"{folder} is not a run folder: it has no {CONFIG}. compare takes folders written by train")
        if resolved.count(path) > 1:
            raise ConfigError(f"{folder} is given twice")
    found: dict[str, tuple[dict[str, Any], list[Path], list[Rows], str]] = {}
    earlier: list[tuple[dict[str, Any], int]] = []
    for folder in resolved:
        config = build(RunConfig, read_toml(folder / CONFIG), str(folder / CONFIG))
        rows = read_rows(folder / METRICS)
        settings = {key: value for key, value in flat(config.model_dump()).items() if key not in SAME}
        wanted = config.training.epochs
        open_end = config.training.patience or config.training.minutes  # the run may end before its epochs
        stopped = f" (stopped: {len(rows)} of {wanted})" if len(rows) < wanted and not open_end else ""
        again = sum(other == (settings, config.seed) for other in earlier)
        earlier.append((settings, config.seed))
        key = json.dumps([settings, stopped and str(folder), again], sort_keys=True)
        _, paths, runs, _ = found.setdefault(key, (settings, [], [], stopped))
        paths.append(folder)
        runs.append(rows)
    names = _names([paths for _, paths, _, _ in found.values()])
    return [
        Group(name + note, settings, runs, paths)
        for name, (settings, paths, runs, note) in zip(names, found.values(), strict=True)
    ]


def read_rows(file: Path) -> Rows:
    """Read and check the rows of a `metrics.jsonl`, one per epoch.

    Raises
    ------
    RunError : a line is invalid; the message gives its number and what is expected
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file} cannot be read: {error}") from None
    rows: Rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        at = len(rows) + 1
        whole = isinstance(row, dict) and row.get("epoch") == at and all(key in row and _is_figure(row[key]) for key in NEEDED)
        if not whole:
            wanted = f"epoch {at} with {', '.join(NEEDED)} as finite numbers or null"
            raise RunError(f"{file}, line {number}: this must be {wanted}, not {line[:60]!r}")
        rows.append(row | {"seconds": row["seconds"] or 0.0})
    if not rows:
        raise RunError(f"{file.parent} has no finished epoch yet: there is nothing to compare")
    return rows


def _is_figure(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


def _names(groups: list[list[Path]]) -> list[str]:
    """A name for each group: the name of its folder, or the common prefix of its folders' names.

    Names of parent folders are added if two groups would have the same name.
    """
    for depth in (1, 2, 3):
        names = []
        for paths in groups:
            tails = ["/".join(path.parts[-depth:]) for path in paths]
            alike = (letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*tails, strict=False)))
            name = "".join(alike)
            name = re.sub(r"([-_. ]+s|[-_. ]*seed)?[-_. ]*$", "", name) if len(paths) > 1 else name
            names.append(f"{name or paths[0].name} ({len(paths)} runs)" if len(paths) > 1 else name)
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(paths[0].parts[-2:])} ({len(paths)} runs)" for paths in groups]


def usual_levels(groups: list[Group]) -> list[float]:
    """Default AP levels: 25 %, 50 % and 75 % of the highest AP, rounded down to hundredths. Levels of 0 are left out."""
    highest = max(best_row(rows)["AP"] or 0.0 for group in groups for rows in group.runs)
    return sorted({level for share in SHARES if (level := math.floor(100 * highest * share) / 100) > 0})


def differences(groups: list[Group]) -> dict[str, list[Any]]:
    """Settings that differ between groups: key → one value per group, None if the group does not have the setting."""
    keys = sorted({key for group in groups for key in group.settings})
    values = {key: [group.settings.get(key) for group in groups] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def format_range(values: list[float | None], limits: list[float], form: Callable[[float], str], unit: str = "") -> str:
    """Format the numbers of several runs: a single number, the mean with the range, or `> limit` if a run has no number.

    Parameters
    ----------
    values : one number per run; None = the run never reached the level
    limits : for each run the number of epochs it was trained; not used if all runs have a number
    form : function number → text
    unit : unit that is appended, as a plural
    """
    arrived = [value for value in values if value is not None]
    if len(arrived) < len(values):
        first = f" ({len(arrived)} of {len(values)} reach it, the first after {form(min(arrived))})" if arrived else ""
        limit = min(given for value, given in zip(values, limits, strict=True) if value is None)
        return f"> {form(limit)}{unit.removesuffix('s') if limit == 1 else unit}{first}"
    if min(arrived) == max(arrived):
        return form(arrived[0]) + (unit.removesuffix("s") if arrived[0] == 1 else unit)
    return f"{form(mean(arrived))} ({form(min(arrived))}–{form(max(arrived))}){unit}"


def _figures(values: list[float | None]) -> str:
    """Format the APs of several runs; a dash if a run has none."""
    return "–" if None in values else format_range(list(values), [], ap)


def table(groups: list[Group], levels: list[float]) -> tuple[list[str], list[list[str]]]:
    """Column titles and one row per group, as printed. A cell may have two lines."""
    columns = ["run", "trained", "best AP", "AP50 (same epoch)", *(f"to AP {level:g}" for level in levels)]
    rows = []
    for group in groups:
        best = [best_row(rows) for rows in group.runs]
        whole = [float(sum(row["seconds"] for row in rows)) for rows in group.runs]
        tried: list[float] = [len(rows) for rows in group.runs]
        row = [
            group.name,
            f"{format_range(list(tried), [], _count, ' epochs')}\n{format_range(list(whole), [], duration)}",
            _figures([row["AP"] for row in best]),
            _figures([row["AP50"] for row in best]),
        ]
        for level in levels:
            at = reached(group, level)
            cell = format_range(list(at.epochs), tried, _count, " epochs")
            if any(_is_first_evaluation(rows, epoch) for rows, epoch in zip(group.runs, at.epochs, strict=True)):
                cell = f"≤ {cell}"
            row.append(cell if None in at.seconds else f"{cell}\n{format_range(list(at.seconds), [], duration)}")
        rows.append(row)
    return columns, rows


def _is_first_evaluation(rows: Rows, epoch: int | None) -> bool:
    """Whether earlier epochs exist but were not evaluated, so that the AP may have been reached before."""
    return epoch is not None and epoch > 1 and all(row["AP"] is None for row in rows[: epoch - 1])


def _count(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def _in_words(value: Any) -> str:
    """The value of a setting as it is shown."""
    return "default" if value is None else "none" if value == "" else f"{value:.6g}" if isinstance(value, float) else str(value)


def write_comparison(groups: list[Group], levels: list[float], output: Path, verdicts: Sequence[str] = ()) -> list[Path]:
    """Write `comparison.html`, its table as `comparison.csv`, and its curves as `curves.png`.

    `verdicts` are the sentences of `compare_groups`.

    Raises
    ------
    RunError : a file cannot be written
    """
    ap = [plots.Band(group.name, [[row["AP"] for row in rows] for rows in group.runs]) for group in groups]
    loss = [plots.Band(group.name, [[row["loss"] for row in rows] for rows in group.runs]) for group in groups]
    columns, rows = table(groups, levels)
    differ = differences(groups)
    shown = {key: [_in_words(value) for value in values] for key, values in differ.items()}
    content = {
        "title": f"Comparison of {plural(sum(len(group.runs) for group in groups), 'run')}",
        "names": [group.name for group in groups],
        "has_seeds": any(len(group.runs) > 1 for group in groups),
        "ap": embedded(plots.learning_curves(ap, "AP", plots.WIDE)),
        "loss": embedded(plots.learning_curves(loss, "training loss", plots.WIDE)),
        "columns": columns,
        "rows": rows,
        "verdicts": verdicts,
        "differ": shown,
        "versions": versions(),
    }
    write_page(output / PAGE, "comparison", content)
    try:
        with (output / TABLE).open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
            csv.writer(stream).writerows([columns, *([cell.replace("\n", ", ") for cell in row] for row in rows)])
        (output / IMAGE).write_bytes(plots.learning_curves(ap, "AP", plots.WIDE, form="png"))
    except OSError as error:
        raise RunError(f"{error.filename} cannot be written: {error.strerror or error}") from None
    return [output / name for name in (PAGE, TABLE, IMAGE)]
