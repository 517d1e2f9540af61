"""Plots for reports and comparisons, as SVG or PNG: small, so that a phone shows them at their own size."""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from conditional_detr.evaluation.greedy_matching import Thresholds

SIZE, WIDE = (4.4, 3.1), (7.6, 4.4)  # inches
MOST_LINES = 10  # of classes in one plot
LONGEST_NAME = 28  # of a line or a class in a plot
MOST_CELLS = 20  # of a confusion matrix with numbers in its cells
RECALL = np.linspace(0, 1, 101)
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#57534e", "#1e3a8a")
STYLES = ("-", "--", ":", "-.")
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",  # words stay words: small, sharp, and found by a search
    "svg.hashsalt": "conditional-detr",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a class may be called $5
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "legend.frameon": False,
    "legend.fontsize": 8,
}
styled = rc_context(LOOK)


class Band(NamedTuple):
    """Runs that differ by seed alone: their values by epoch, each as long as its run was. None is a gap."""

    name: str
    curves: Sequence[Sequence[float | None]]


def shortened(name: str) -> str:
    """A name that leaves room for the plot; matplotlib would leave out one that begins with an underscore."""
    if len(name) > LONGEST_NAME:  # names of runs often differ at the end
        name = f"{name[: LONGEST_NAME // 2]}…{name[1 - LONGEST_NAME // 2 :]}"
    return f"\u200b{name}" if name.startswith("_") else name


def _axes(x: str, y: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot(xlabel=x, ylabel=y)


def _written(figure: Figure, form: str = "svg") -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # what its own font lacks, a browser's has
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
    """Lines over epochs: of several runs their mean between the lowest and the highest, as far as all of them ran.

    What a longer run did after that is a thin line.

    Parameters
    ----------
    y : name of what is plotted
    level : a height to mark
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
        name = shortened(band.name)
        if len(values) == 1:
            known = ~np.isnan(values[0])  # a run by the clock does not judge every epoch
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
    axes.set_ylim(bottom=0)
    if len(bands) > 1:
        axes.legend()
    return _written(figure, form)


@styled
def precision_recall(precision: np.ndarray, names: Sequence[str]) -> bytes:
    """Precision by recall at IoU 0.5 for each class, and the mean over classes at IoU 0.5 and 0.75.

    Parameters
    ----------
    precision : [T, R, K, A] as in `CocoResult`
    names : [K]
    """
    figure, axes = _axes("recall", "precision")
    at_half = precision[0, :, :, 0].T
    present = [k for k in range(len(names)) if at_half[k].max(initial=-1) > -1]
    if 1 < len(present) <= MOST_LINES:
        for colour, k in zip(COLOURS, present, strict=False):
            axes.plot(RECALL, at_half[k], color=colour, linewidth=1, label=shortened(names[k]))
    if present:
        axes.plot(RECALL, at_half[present].mean(0), color="#111827", linewidth=2, label="mean, IoU 0.50")
        axes.plot(RECALL, precision[5, :, present, 0].mean(0), "--", color="#111827", linewidth=1.2, label="mean, IoU 0.75")
        axes.legend()
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return _written(figure)


@styled
def score_curves(curves: "Thresholds", best: float | None) -> bytes:
    """Precision, recall and F1 by the lowest score that is kept, with a line at the best of them."""
    figure, axes = _axes("lowest score that is kept (--conf)", "all classes, IoU 0.5")
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


@styled
def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> bytes:
    """A matrix of counts, coloured by the share of each row.

    Parameters
    ----------
    counts : int [K + 1, K + 1]: true class by predicted class
    names : [K + 1]
    """
    side = min(7.0, 2.4 + 0.34 * len(names))
    figure, axes = _axes("predicted", "true", (side + 0.4, side))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    shown = [shortened(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=90 if max(map(len, shown)) > 2 else 0)
    axes.set_yticks(range(len(names)), shown)
    if len(names) <= MOST_CELLS + 1:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                axes.text(
                    column, row, str(count), ha="center", va="center", fontsize=7 if len(names) < 14 else 5,
                    color="white" if share[row, column] > 0.5 else "#111827",
                )  # fmt: skip
    return _written(figure)
