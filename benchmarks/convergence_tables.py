"""Write the tables and plots of the convergence study from its learning curves.

Rewrites the text between the marks `<!-- begin … -->` and `<!-- end … -->` in docs/results.md, and the plots
docs/images/convergence-*.png.

Command: python benchmarks/convergence_tables.py        Time: seconds.
"""

import re
from collections.abc import Callable
from pathlib import Path

from convergence import Job, Study, smooth
from scipy.stats import spearmanr

from conditional_detr.evaluation import plots
from conditional_detr.evaluation.compare_runs import epochs_to, format_range
from conditional_detr.evaluation.pages import ap

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, IMAGES = DOCS / "results.md", DOCS / "images"
NOT_RUN = "not run"
MOST_TELLING = 4  # rows; with fewer, a rank correlation has no meaning and is left out

# Table → (label, row of the study, the paper's AP on COCO with R50 after 50 epochs).
TABLES = {
    "spatial-queries": [
        ("CSQ-C: decoder embedding only", "query-content", 37.1),
        ("CSQ-T: transformation only", "query-lambda", 37.6),
        ("CSQ-P: reference point only", "query-point", 37.8),
        ("CSQ-I: transformation predicted from the self-attention output", "query-intermediate", 40.2),
        ("CSQ: the paper's choice", "conditional", 40.9),
    ],
    "lambda": [
        ("identity", "query-point", 37.8),
        ("scalar", "lambda-scalar", 39.0),
        ("block-diagonal", "lambda-block", 40.8),
        ("full", "lambda-full", 40.7),
        ("diagonal: the paper's choice", "conditional", 40.9),
    ],
    "components": [
        ("DETR", "detr", 34.9),
        ("DETR + offset regression (OR)", "detr-offset-only", 35.0),
        ("DETR + focal loss (FL)", "detr-focal-only", 35.3),
        ("DETR + OR + FL", "detr-focal", 36.9),
        ("DETR + OR + FL + CSQ: Conditional DETR", "conditional", 40.9),
    ],
    "reference-points": [
        ("the origin for all queries", "points-origin", 36.8),
        ("learned, one per query", "points-learned", 40.7),
        ("predicted from the object query: the paper's choice", "conditional", 40.9),
    ],
}
Rows = list[tuple[str, str, float | str | None]]
MAIN: dict[str, Rows] = {  # stride → (label, row of the study, the paper's AP on COCO after 50 epochs)
    "16": [
        ("DETR, original loss", "detr", 36.7),
        ("DETR, focal loss and offset", "detr-focal", None),
        ("DETR, original loss, pre-norm", "detr-pre-norm", None),
        ("UP-DETR: the same, pre-trained", "up-detr", "40.5 after 150 epochs at stride 32"),
        ("Deformable DETR, single scale", "deformable", 41.5),
        ("Conditional DETR", "conditional", 43.8),
    ],
    "32": [
        ("DETR, original loss", "detr-32", 34.9),
        ("DETR, focal loss and offset", "detr-focal-32", 36.9),
        ("Conditional DETR", "conditional-32", 40.9),
    ],
}
PLOTS = {"digits": MAIN["16"], "digits-32": MAIN["32"]}


def done(study: Study, row: str) -> list[tuple[Job, list[dict[str, float]]]]:
    """Finished runs of a row with their learning curves."""
    return [(job, study.curve(job)) for job in study.wanted(row) if study.is_done(job)]


def aps(study: Study, row: str, epochs: int) -> list[float]:
    """AP after `epochs` epochs, for every finished run of a row that is at least that long."""
    return [smooth(curve)[epochs - 1] for _, curve in done(study, row) if len(curve) >= epochs]


def arrivals(study: Study, row: str, target: float) -> list[int | None]:
    """First epoch that reaches the AP `target`, for every finished run; None for a run that never reaches it."""
    return [epochs_to([{"AP": ap} for ap in smooth(curve)], target) for _, curve in done(study, row)]


def count(value: float) -> str:
    return f"{value:.3g}"


def shown(values: list[float], form: Callable[[float], str] = ap) -> str:
    return format_range(list(values), [], form) if values else NOT_RUN


def sweep_table(study: Study) -> str:
    """AP and loss at the end of each sweep run. The chosen learning rate is in bold."""
    rates = study.settings["sweep"]["learning_rates"]
    lines = ["| system | " + " | ".join(f"{rate:.0e}" for rate in rates) + " |", "|---|" + "---|" * len(rates)]
    for name, row, _ in reversed(MAIN["16"]):
        cells: list[str] = []
        if "rate_of" in study.settings["rows"][row]:
            continue
        for job in study.sweep(row):
            if not study.is_done(job):
                cells.append(NOT_RUN)
                continue
            curve = study.curve(job)[: job.epochs]
            cell = f"AP {ap(smooth(curve)[-1])}, loss {curve[-1]['loss']:.2f}"
            cells.append(f"**{cell}**" if study.rate(row) == job.lr else cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main_table(study: Study, rows: Rows) -> str:
    """Epochs that each system needs to reach the AP of Conditional DETR."""
    ours = rows[-1][1]
    target, own = study.target(ours), study.settings["target_epochs"]
    lines = [
        f"| system | paper: AP on COCO after 50 epochs | learning rate | AP after {own} epochs "
        f"| AP after {study.settings['epochs']} epochs | epochs to reach AP {NOT_RUN if target is None else ap(target)} "
        "| epochs relative to Conditional DETR | runs, total minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = [] if target is None else arrivals(study, ours, target)
    for name, row, paper in rows:
        runs = done(study, row)
        cells = [name, "–" if paper is None else f"{paper}"]
        if not runs or target is None:
            lines.append(f"| {' | '.join(cells)} | {NOT_RUN} | | | | | |")
            continue
        at, limits = arrivals(study, row, target), [len(curve) for _, curve in runs]
        minutes = sum(epoch["seconds"] for _, curve in runs for epoch in curve) / 60
        cells += [
            f"{runs[0][0].lr:g}",
            shown(aps(study, row, own)),
            shown(aps(study, row, study.settings["epochs"])),
            format_range(list(at), list(limits), count),
            "1" if row == ours else ratio(at, limits, base),
            f"{len(runs)}, {minutes:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(theirs: list[int | None], limits: list[int], ours: list[int | None]) -> str:
    """Epochs that a baseline needs to reach the target, divided by those of Conditional DETR.

    The ratio of the means, with a range: from the baseline's fastest run over our slowest to its slowest over our fastest.
    A baseline run that never reaches the target counts with its full length; the ratio is then a lower bound.
    """
    if None in ours:
        return "Conditional DETR does not arrive with every seed"
    base = [at for at in ours if at is not None]
    spent = [limit if at is None else at for at, limit in zip(theirs, limits, strict=True)]
    middle = count((sum(spent) / len(spent)) / (sum(base) / len(base)))
    if None in theirs:
        return f"**> {middle}**"
    if len(spent) == len(base) == 1:
        return f"**{middle}**"
    return f"**{middle}** ({count(min(spent) / max(base))}–{count(max(spent) / min(base))})"


def ablation_table(study: Study, rows: list[tuple[str, str, float]]) -> str:
    """AP of each variant next to the paper's, and the rank correlation of both."""
    epochs = study.settings["epochs"]
    lines = [
        f"| variant | paper: AP on COCO after 50 epochs | AP after {epochs} epochs | runs, total minutes |",
        "|---|---|---|---|",
    ]
    ours: list[float | None] = []
    for name, row, paper in rows:
        runs, values = done(study, row), aps(study, row, epochs)
        ours.append(sum(values) / len(values) if values else None)
        minutes = sum(at["seconds"] for _, curve in runs for at in curve[:epochs]) / 60
        lines.append(f"| {name} | {paper} | {shown(values)} | {f'{len(values)}, {minutes:.0f}' if values else ''} |")
    if None in ours or len(rows) < MOST_TELLING:
        return "\n".join(lines)
    correlation = spearmanr([paper for _, _, paper in rows], ours).statistic
    return "\n".join([*lines, "", f"Rank correlation with the paper (Spearman): {correlation:+.2f}."])


def plot(study: Study, rows: Rows, name: str) -> None:
    """Plot AP by epoch for the finished runs of some rows, with a line at the target AP. Without such runs, write nothing."""
    found = [(system, [[at["AP"] for at in curve] for _, curve in done(study, row)]) for system, row, _ in rows]
    if bands := [plots.Band(system, curves) for system, curves in found if curves]:
        image = plots.learning_curves(bands, "AP", plots.WIDE, "png", study.target(rows[-1][1]))
        (IMAGES / f"convergence-{name}.png").write_bytes(image)


def fragments() -> dict[str, str]:
    """Text for each pair of marks, by its name."""
    digits, cells = Study("digits"), Study("blood-cells")
    return {
        "sweep": sweep_table(digits),
        "main-16": main_table(digits, MAIN["16"]),
        "main-32": main_table(digits, MAIN["32"]),
        "main-blood-cells": main_table(cells, MAIN["16"]),
        **{name: ablation_table(digits, rows) for name, rows in TABLES.items()},
    }


def filled(text: str) -> str:
    """Insert every table between its marks.

    Raises
    ------
    KeyError : the text has a mark that no table belongs to
    """
    found = fragments()
    mark = re.compile(r"(<!-- begin ([\w-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
    return mark.sub(lambda match: f"{match[1]}{found[match[2]]}\n{match[3]}", text)


def main() -> None:
    """Rewrite the document and the plots."""
    RESULTS.write_text(filled(RESULTS.read_text(encoding="utf-8")), encoding="utf-8")
    for name, rows in PLOTS.items():
        plot(Study("digits"), rows, name)
    plot(Study("blood-cells"), MAIN["16"], "blood-cells")


if __name__ == "__main__":
    main()
