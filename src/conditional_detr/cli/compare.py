"""`cdetr compare`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from conditional_detr.cli.printing import make_folder, print_table
from conditional_detr.errors import ConfigError


def compare(
    *runs: Path,
    ap: Annotated[list[float] | None, Parameter(consume_multiple=False, negative="")] = None,
    output: Path = Path("comparison"),
) -> None:
    """Show several runs side by side: curves, and the epochs and the time to an AP.

    Parameters
    ----------
    runs
        Run folders; those that differ by seed alone become one line in a band.
    ap
        An AP to be reached; may be repeated. Default: a quarter, half and three quarters of the highest.
    output
        Folder for comparison.html, comparison.csv and curves.png.
    """
    if not runs:
        raise ConfigError("compare needs run folders: cdetr compare RUN RUN…")
    if wrong := [level for level in ap or [] if not 0 < level <= 1]:
        raise ConfigError(f"--ap must be above 0 and at most 1, not {wrong[0]:g}")
    from conditional_detr.evaluation.compare_runs import read_groups, table, usual_levels, write_comparison

    groups = read_groups(list(runs))
    make_folder(output)
    levels = sorted(set(ap)) if ap else usual_levels(groups)
    print_table(*table(groups, levels))
    print("→ " + ", ".join(map(str, write_comparison(groups, levels, output))))
