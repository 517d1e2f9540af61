"""Several runs side by side: their curves, what differs between them, and what each needs to reach an AP."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import mean
from typing import Any

from conditional_detr.config import RunConfig, build, read_toml
from conditional_detr.errors import ConfigError, RunError
from conditional_detr.evaluation import plots
from conditional_detr.evaluation.pages import embedded, write_page
from conditional_detr.evaluation.report import duration, versions
from conditional_detr.training.folder import CONFIG, METRICS, flat

PAGE, PICTURE = "comparison.html", "curves.png"
SHARES = (0.25, 0.5, 0.75)  # of the highest AP: the levels that are asked after by default
# What makes no other run of it.
SAME = frozenset({"seed", "output"})

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Group:
    """Runs that differ by seed alone.

    Attributes
    ----------
    name : for people
    settings : flat, without what may differ inside the group
    runs : their rows of `metrics.jsonl`, a run each
    """

    name: str
    settings: dict[str, Any]
    runs: list[Rows]


@dataclass(frozen=True)
class Reached:
    """What the runs of a group need to reach an AP: a number a run, counted from its start; None where it never arrives."""

    epochs: list[int | None]
    seconds: list[float | None]


def epochs_to(rows: Rows, ap: float) -> int | None:
    """The first epoch with such an AP or more, counted from 1; None where there is none."""
    return next((i for i, row in enumerate(rows, 1) if row["AP"] is not None and row["AP"] >= ap), None)


def reached(group: Group, ap: float) -> Reached:
    """When each run of a group first has an AP."""
    epochs = [epochs_to(rows, ap) for rows in group.runs]
    seconds = [
        None if at is None else float(sum(row["seconds"] for row in rows[:at]))
        for rows, at in zip(group.runs, epochs, strict=True)
    ]
    return Reached(epochs, seconds)


def best_ap(rows: Rows) -> float:
    """The highest AP of a run; 0 where it has none."""
    return max((row["AP"] for row in rows if row["AP"] is not None), default=0.0)


def read_groups(folders: list[Path]) -> list[Group]:
    """Run folders, grouped by what they are but for the seed, in the order in which they are given.

    Raises
    ------
    ConfigError : a folder that is no run, or one that is given twice
    RunError : a run without a finished epoch
    """
    places = [folder.resolve() for folder in folders]
    if len(set(places)) < len(places):
        raise ConfigError(f"{next(f for f in folders if places.count(f.resolve()) > 1)} is given twice")
    found: dict[str, tuple[dict[str, Any], list[Path], list[Rows]]] = {}
    for folder in places:
        settings, rows = _read_run(folder)
        _, paths, runs = found.setdefault(json.dumps(settings, sort_keys=True), (settings, [], []))
        paths.append(folder)
        runs.append(rows)
    names = _names([paths for _, paths, _ in found.values()])
    return [Group(name, settings, runs) for name, (settings, _, runs) in zip(names, found.values(), strict=True)]


def _read_run(folder: Path) -> tuple[dict[str, Any], Rows]:
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} is no run folder: it has no {CONFIG}. compare wants folders that train left")
    config = build(RunConfig, read_toml(folder / CONFIG), str(folder / CONFIG))
    file = folder / METRICS
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
        if not all({"AP", "AP50", "seconds", "loss"} <= row.keys() for row in rows):
            raise ValueError("a line lacks AP, AP50, seconds or loss")
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{file} cannot be read: {error}") from None
    if not rows:
        raise RunError(f"{folder} has no finished epoch yet: there is nothing to compare")
    return {key: value for key, value in flat(config.model_dump()).items() if key not in SAME}, rows


def _names(groups: list[list[Path]]) -> list[str]:
    """A name a group: its folder's, or what its folders' names begin with; with their parents' where two are the same."""
    for depth in (1, 2, 3):
        names = []
        for paths in groups:
            tails = ["/".join(path.parts[-depth:]) for path in paths]
            alike = (letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*tails, strict=False)))
            name = "".join(alike)
            name = re.sub(r"[-_. ]*(seed)?[-_. ]*$", "", name) if len(paths) > 1 else name
            names.append(f"{name or paths[0].name} ({len(paths)} runs)" if len(paths) > 1 else name)
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(paths[0].parts[-2:])} ({len(paths)} runs)" for paths in groups]


def usual_levels(groups: list[Group]) -> list[float]:
    """A quarter, half and three quarters of the highest AP, in whole hundredths; none where nothing was learned."""
    highest = max(best_ap(rows) for group in groups for rows in group.runs)
    return sorted({level for share in SHARES if (level := math.floor(100 * highest * share) / 100) > 0})


def differences(groups: list[Group]) -> dict[str, list[Any]]:
    """Settings in which the groups are not the same: key → a value a group, None where it has none."""
    keys = sorted({key for group in groups for key in group.settings})
    values = {key: [group.settings.get(key) for group in groups] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def told(values: list[float | None], limits: list[float], form: Callable[[float], str], unit: str = "") -> str:
    """Numbers of several runs as a person reads them: one, the mean with its range, or `> limit` where a run never arrives.

    Parameters
    ----------
    values : a number a run, None = never
    limits : what each run was given, where it may not arrive
    form : number → text
    unit : of the numbers
    """
    arrived = [value for value in values if value is not None]
    if len(arrived) < len(values):
        first = f" ({len(arrived)} of {len(values)} arrive, the first after {form(min(arrived))})" if arrived else ""
        limit = min(given for value, given in zip(values, limits, strict=True) if value is None)
        return f"> {form(limit)}{unit}{first}"
    if min(arrived) == max(arrived):
        return form(arrived[0]) + unit
    return f"{form(mean(arrived))} ({form(min(arrived))}–{form(max(arrived))}){unit}"


def table(groups: list[Group], levels: list[float]) -> tuple[list[str], list[list[str]]]:
    """Columns and a row a group, as printed; a cell may have two lines."""
    columns = ["run", "trained", "best AP", "AP50 there", *(f"to AP {level:g}" for level in levels)]
    rows = []
    for group in groups:
        best = [max(rows, key=lambda row: -1.0 if row["AP"] is None else row["AP"]) for rows in group.runs]
        whole = [float(sum(row["seconds"] for row in rows)) for rows in group.runs]
        tried: list[float] = [len(rows) for rows in group.runs]
        row = [
            group.name,
            f"{told(list(tried), [], _count, ' epochs')}\n{told(list(whole), [], duration)}",
            told([row["AP"] or 0.0 for row in best], [], _figure),
            told([row["AP50"] or 0.0 for row in best], [], _figure),
        ]
        for level in levels:
            at = reached(group, level)
            cell = told(list(at.epochs), tried, _count, " epochs")
            row.append(cell if None in at.seconds else f"{cell}\n{told(list(at.seconds), [], duration)}")
        rows.append(row)
    return columns, rows


def _count(value: float) -> str:
    return f"{value:.4g}"


def _figure(value: float) -> str:
    return f"{value:.3f}"


def write_comparison(groups: list[Group], levels: list[float], output: Path) -> list[Path]:
    """`comparison.html` and `curves.png`: curves, what differs, and the table.

    Raises
    ------
    RunError : a file cannot be written
    """
    ap = [plots.Band(group.name, [[row["AP"] for row in rows] for rows in group.runs]) for group in groups]
    loss = [plots.Band(group.name, [[row["loss"] for row in rows] for rows in group.runs]) for group in groups]
    columns, rows = table(groups, levels)
    differ = differences(groups)
    content = {
        "title": f"{sum(len(group.runs) for group in groups)} runs compared",
        "names": [group.name for group in groups],
        "has_seeds": any(len(group.runs) > 1 for group in groups),
        "ap": embedded(plots.learning_curves(ap, "AP", plots.WIDE)),
        "loss": embedded(plots.learning_curves(loss, "training loss", plots.WIDE)),
        "columns": columns,
        "rows": rows,
        "differ": {key: ["–" if value is None else str(value) for value in values] for key, values in differ.items()},
        "versions": versions(),
    }
    write_page(output / PAGE, "comparison", content)
    try:
        (output / PICTURE).write_bytes(plots.learning_curves(ap, "AP", plots.WIDE, form="png"))
    except OSError as error:
        raise RunError(f"{output / PICTURE} cannot be written: {error.strerror or error}") from None
    return [output / PAGE, output / PICTURE]
