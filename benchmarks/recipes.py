"""Compare how fast each recipe learns: epochs and seconds to reach an AP with `conditional-detr-tiny`.

`paper` and `fast` start from ImageNet weights here. `fast-shipped` starts from the detector weights bundled with the package,
which is the default of the recipe `fast`. All other settings are equal. Finished runs in DIR are not repeated. Several recipes
may run at the same time, in separate processes.

    python benchmarks/recipes.py --data FOLDER --work DIR --imgsz 128 --queries 20 --epochs 20 --recipes paper --threads 1
    python benchmarks/recipes.py --data FOLDER --work DIR --imgsz 128 --queries 20 --epochs 4 --recipes fast --threads 1
    python benchmarks/recipes.py --work DIR --levels 0.05 0.1 0.2
"""

import argparse
import json
from pathlib import Path

from conditional_detr import train

ROWS = {"paper": ("paper", {}), "fast": ("fast", {"init_from": ""}), "fast-shipped": ("fast", {})}


def reached(rows: list[dict], level: float) -> tuple[int, float] | None:
    """First epoch that reaches an AP, and the seconds until its end, including evaluations. None if no epoch does."""
    spent = 0.0
    for row in rows:
        spent += row["seconds"]
        if row["AP"] >= level:
            return row["epoch"], spent
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--data", type=Path, help="COCO folder")
    parser.add_argument(
        "--recipes", nargs="*", choices=ROWS, default=[], help="recipes to run; without it, only the table is printed"
    )
    parser.add_argument("--epochs", type=int, default=20, help="number of epochs (default: 20)")
    parser.add_argument("--imgsz", type=int, default=320, help="input size in px (default: 320)")
    parser.add_argument("--queries", type=int, default=100, help="number of object queries (default: 100)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 (default) = all available")
    parser.add_argument("--levels", type=float, nargs="*", default=[0.05, 0.1, 0.2, 0.3, 0.4], help="APs for the table")
    arguments = parser.parse_args()
    for name in arguments.recipes:
        recipe, settings = ROWS[name]
        train(
            arguments.data, output=arguments.work / name, recipe=recipe, recipe_overrides=settings, epochs=arguments.epochs,
            imgsz=arguments.imgsz, model_overrides={"num_queries": arguments.queries}, threads=arguments.threads, resume=True,
        )  # fmt: skip
    print("| recipe | epochs | best AP |", *(f" AP {level:g} |" for level in arguments.levels), sep="")
    print("|---|---|---|" + "---|" * len(arguments.levels))
    for name in ROWS:
        if (file := arguments.work / name / "metrics.jsonl").is_file():
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            found = [reached(rows, level) for level in arguments.levels]
            cells = ["not reached" if f is None else f"epoch {f[0]}, {f[1]:.0f} s" for f in found]
            print(f"| {name} | {len(rows)} | {max(row['AP'] for row in rows):.3f} |", *(f" {cell} |" for cell in cells), sep="")


if __name__ == "__main__":
    main()
