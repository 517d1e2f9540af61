"""Plots for reports and comparisons, as SVG or PNG. They are small enough to be shown unscaled on a phone."""

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

if TYPE_CHECKING:
    from conditional_detr.evaluation.greedy_matching import Thresholds

SIZE, WIDE = (4.4, 3.1), (7.6, 4.4)  # inches
MAX_LINES_INSIDE = 4  # maximum number of lines of a legend inside a plot
MAX_LINES = 10  # maximum number of classes with their own lines
MAX_LABEL_LENGTH = 28  # maximum length of a label in an image, in characters
LINE_LENGTH = 26  # characters per line of a name in a plot; longer names are wrapped
MAX_CELLS = 20  # maximum number of classes of a confusion matrix with numbers in its cells
BINS = 40  # of a histogram
RECALL = np.linspace(0, 1, 101)
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#57534e", "#1e3a8a")
STYLES = ("-", "--", ":", "-.")
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the file is small and can be searched
    "svg.hashsalt": "conditional-detr",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # a class name may contain $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
    "legend.fontsize": 9,
}
styled = rc_context(LOOK)


class Band(NamedTuple):
    """Runs that differ only in their seed: one curve of values per epoch for each run. None = no value in that epoch."""

    name: str
    curves: Sequence[Sequence[float | None]]


def shortened(name: str) -> str:
    """Shorten a label in an image, where a long one would hide objects. The middle is removed."""
    if len(name) > MAX_LABEL_LENGTH:
        name = f"{name[: MAX_LABEL_LENGTH // 2]}…{name[1 - MAX_LABEL_LENGTH // 2 :]}"
    return name


def wrapped(name: str) -> str:
    """A name in lines that leave space for the plot. matplotlib would leave out one that begins with an underscore."""
    lines = textwrap.wrap(name, LINE_LENGTH, break_on_hyphens=False) or [""]
    return "\n".join(["\u200b" + lines[0] if lines[0].startswith("_") else lines[0], *lines[1:]])


def _axes(x: str, y: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot(xlabel=x, ylabel=y)


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend inside the plot; below it, on a figure that grows, if it has many lines."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) <= MAX_LINES_INSIDE:
        axes.legend()
        return
    columns = 2 if max(map(len, names)) > LINE_LENGTH // 2 else 3
    rows = -(-sum(1 + name.count("\n") for name in names) // columns)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * rows)
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def _written(figure: Figure, form: str = "svg") -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # glyphs that matplotlib's font lacks are drawn by the browser
        figure.savefig(file, format=form, dpi=160, metadata={"Date": None} if form == "svg" else None)
    return file.getvalue()


@styled
def learning_curves(
    bands: Sequence[Band],
    y: str,
    size: tuple[float, float] = SIZE,
    form: str = "svg",
    level: float | None = None,
) -> bytes:
    """Plot curves over epochs.

    A band of several runs is drawn as their mean, with the range from lowest to highest, up to the last epoch that all of them
    reached. After that each longer run is a thin line.

    Parameters
    ----------
    bands : the runs, grouped
    y : label of the y axis
    size : width and height, inches
    form : "svg" or "png"
    level : value that is marked by a horizontal line
    """
    figure, axes = _axes("epoch", y, size)
    longest = max((len(curve) for band in bands for curve in band.curves), default=0)
    for i, band in enumerate(bands):
        epochs = np.arange(1, max(map(len, band.curves), default=0) + 1)
        values = np.full((len(band.curves), len(epochs)), np.nan)
        for row, curve in zip(values, band.curves, strict=True):
            row[: len(curve)] = [np.nan if value is None else value for value in curve]
        colour, line = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)]
        dot = "o" if longest < 15 else ""
        name = wrapped(band.name)
        if len(values) == 1:
            known = ~np.isnan(values[0])  # a run with a time limit does not evaluate every epoch
            axes.plot(epochs[known], values[0][known], line + dot, color=colour, label=name, linewidth=1.4, markersize=3)
            continue
        together = min(map(len, band.curves))
        axes.plot(epochs[:together], values[:, :together].mean(0), line + dot, color=colour, label=name, markersize=3)
        low, high = values[:, :together].min(0), values[:, :together].max(0)
        axes.fill_between(epochs[:together], low, high, color=colour, alpha=0.18, linewidth=0)
        for run in values:
            axes.plot(epochs[together - 1 :], run[together - 1 :], line, color=colour, linewidth=0.7)
    if level is not None:
        axes.axhline(level, color="#6b7280", linewidth=0.8, linestyle="--")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if np.isfinite(axes.dataLim.y1) and axes.dataLim.y1 > 0:
        axes.set_ylim(0, 1.05 * axes.dataLim.y1)
    if len(bands) > 1:
        _legend(figure, axes)
    return _written(figure, form)


@styled
def precision_recall(precision: np.ndarray, names: Sequence[str]) -> bytes:
    """Plot precision over recall: at IoU 0.5 for each class, and the mean over classes at IoU 0.5 and 0.75.

    Parameters
    ----------
    precision : [T, R, K, A], see `CocoResult`
    names : [K], class names
    """
    figure, axes = _axes("recall", "precision")
    at_half = precision[0, :, :, 0].T
    present = [k for k in range(len(names)) if at_half[k].max(initial=-1) > -1]
    if 1 < len(present) <= MAX_LINES:
        for colour, k in zip(COLOURS, present, strict=False):
            axes.plot(RECALL, at_half[k], color=colour, linewidth=1, label=wrapped(names[k]))
    if present:
        axes.plot(RECALL, at_half[present].mean(0), color="#111827", linewidth=2, label="mean, IoU 0.50")
        axes.plot(RECALL, precision[5, :, present, 0].mean(0), "--", color="#111827", linewidth=1.2, label="mean, IoU 0.75")
        _legend(figure, axes)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return _written(figure)


@styled
def score_curves(curves: "Thresholds", best: float | None) -> bytes:
    """Plot precision, recall and F1 over the score threshold, with a line at the threshold `best`."""
    figure, axes = _axes("score threshold (--conf)", "value")
    for colour, name, values in (
        (COLOURS[0], "precision", curves.precision),
        (COLOURS[1], "recall", curves.recall),
        (COLOURS[2], "F1", curves.f1),
    ):
        axes.plot(curves.scores, values, color=colour, label=name, linewidth=1.4)
    if best is not None:
        axes.axvline(best, color="#6b7280", linewidth=0.8, linestyle="--")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    return _written(figure)


def _matrix(x: str, y: str, counts: np.ndarray, totals: np.ndarray, names: Sequence[str]) -> bytes:
    """Plot counts [K, K] of pairs of classes, coloured by their fraction of the totals [K, 1] of the rows."""
    side = min(7.6, 2.6 + 0.36 * len(names))
    figure, axes = _axes(x, y, (side + 0.4, side))
    share = counts / np.maximum(totals, 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    shown = [wrapped(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=90 if max(map(len, shown)) > 2 else 0)
    axes.set_yticks(range(len(names)), shown)
    _cell_numbers(axes, counts, share, len(names))
    return _written(figure)


def _cell_numbers(axes: Axes, counts: np.ndarray, share: np.ndarray, names: int) -> None:
    """Write the numbers into the cells of a matrix, if it is small enough."""
    if names > MAX_CELLS + 1:
        return
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(
                column, row, str(count), ha="center", va="center", fontsize=7 if names < 14 else 5,
                color="white" if share[row, column] > 0.5 else "#111827",
            )  # fmt: skip


@styled
def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> bytes:
    """Plot a confusion matrix of counts, coloured by the fraction of each row.

    Parameters
    ----------
    counts : int [K + 1, K + 1], true class by predicted class
    names : [K + 1], class names and the name of the background
    """
    return _matrix("predicted class", "true class", counts, counts.sum(1, keepdims=True), names)


@styled
def histogram(values: dict[str, np.ndarray], x: str, log: bool = False, mark: float | None = None) -> bytes:
    """Plot the distribution of a number in several splits, each as a fraction of its objects.

    Parameters
    ----------
    values : for each split the values of its objects; those that are not positive are left out on a logarithmic axis
    x : label of the x axis
    log : whether the x axis is logarithmic
    mark : value that is marked by a vertical line
    """
    figure, axes = _axes(x, "fraction")
    kept = {name: each[each > 0] if log else each for name, each in values.items()}
    every = np.concatenate([np.empty(0), *kept.values()])
    if len(every):
        low, high = float(every.min()), float(every.max())
        if log:
            edges = np.geomspace(low / 1.05, high * 1.05, BINS + 1)
        else:  # whole numbers: each bin has as many of them
            edges = np.arange(low - 0.5, high + 1.5, max(1, -(-(high - low + 1) // BINS)))
            edges = np.append(edges, edges[-1] + edges[1] - edges[0]) if edges[-1] < high + 0.5 else edges
        for i, (name, each) in enumerate(kept.items()):
            if len(each):
                counts = np.histogram(each, edges)[0] / len(each)
                axes.stairs(counts, edges, color=COLOURS[i % len(COLOURS)], label=wrapped(name), linewidth=1.4)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        if mark is not None:
            axes.axvline(mark, color="#6b7280", linewidth=0.8, linestyle="--")
        axes.set_ylim(bottom=0)
        if len(kept) > 1:
            _legend(figure, axes)
    return _written(figure)


@styled
def heat_map(counts: np.ndarray) -> bytes:
    """Plot where the centres of objects lie in the image. `counts` is [rows, columns]."""
    figure, axes = _axes("x / width", "y / height", (3.4, 3.1))
    axes.imshow(counts, cmap="viridis", extent=(0, 1, 1, 0), aspect="equal")
    axes.grid(False)
    return _written(figure)


@styled
def co_occurrence(counts: np.ndarray, names: Sequence[str]) -> bytes:
    """Plot the number of images that contain two classes, [K, K], coloured by the fraction of the images of the row's class."""
    return _matrix("also contain", "images that contain", counts, counts.diagonal()[:, None], names)
