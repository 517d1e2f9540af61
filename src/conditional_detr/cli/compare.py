"""`cdetr compare`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from conditional_detr.cli.parameters import GROUP, Output, argument
from conditional_detr.cli.printing import make_folder, print_table, print_text, print_written
from conditional_detr.errors import ConfigError

SIGNS = {">": "ended after n without reaching this AP", "≤": "had this AP at its first evaluation, after n"}

Levels = Annotated[
    list[float] | None,
    Parameter(
        help="AP level in (0, 1]. The epochs and the time that each run needed to reach it are shown. May be repeated.",
        group=GROUP["Data"],
        metavar="AP",
        show_default="a quarter, half and three quarters of the highest AP",
        consume_multiple=False,
        negative="",
    ),
]


def compare(
    *runs: Annotated[Path, argument("Run folders. Runs that differ only by seed are shown as one line with a band.")],
    ap: Levels = None,
    output: Output = Path("comparison"),
) -> None:
    """Compare training runs: curves, best AP, and the epochs and time needed to reach an AP."""
    if wrong := [level for level in ap or [] if not 0 < level <= 1]:
        raise ConfigError(f"--ap must be above 0 and at most 1, not {wrong[0]:g}")
    from conditional_detr.evaluation.compare_runs import read_groups, table, usual_levels, write_comparison
    from conditional_detr.evaluation.significance import compare_groups

    groups = read_groups(list(runs))
    make_folder(output)
    levels = sorted(set(ap)) if ap else usual_levels(groups)
    columns, rows = table(groups, levels)
    print_table(columns, rows)
    for sign, meaning in SIGNS.items():
        if any(sign in cell for row in rows for cell in row[1:]):
            print_text(f"“{sign} n” means that a run {meaning}.")
    verdicts = compare_groups([group.name for group in groups], [group.folders for group in groups])
    for sentence in verdicts:
        print_text(sentence)
    print_written(*write_comparison(groups, levels, output, verdicts))
