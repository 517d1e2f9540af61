"""The paper's argument in miniature: how many epochs DETR and Conditional DETR need, and what each ablation costs.

The settings are the TOML files in `convergence/`; every run leaves its curve in `convergence/curves/`, a row an epoch. What is
there already is not run again, and a run that was stopped goes on where it was. Several of these processes may share the work.

Command: python benchmarks/convergence.py digits --work DIR
         python benchmarks/convergence.py blood-cells --work DIR --data FOLDER
Time: see docs/results.md; an epoch on digits takes about 13 s on one core.
"""

import argparse
import csv
import fcntl
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from conditional_detr import train
from conditional_detr.config import ModelConfig, idle_fields
from conditional_detr.data.digits import make_digits

HERE = Path(__file__).parent / "convergence"
COLUMNS = ("epoch", "seconds", "loss", "AP", "AP50", "AP75")
STRIDE = 10  # epochs at a time, between which a baseline may have arrived


def smooth(curve: list[dict[str, float]]) -> list[float]:
    """AP by epoch, each the mean of the last three: a single epoch's wanders by a hundredth or two."""
    aps = [row["AP"] for row in curve]
    return [mean(aps[max(0, i - 2) : i + 1]) for i in range(len(aps))]


@dataclass(frozen=True)
class Job:
    """A run that the study wants: until so many epochs, or until it reaches an AP."""

    row: str
    lr: float
    seed: int
    epochs: int
    until: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.row}-lr{self.lr:.0e}-seed{self.seed}"


@dataclass
class Study:
    """The settings of one file and the curves that are there."""

    name: str
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = tomllib.loads((HERE / f"{self.name}.toml").read_text(encoding="utf-8"))

    def file(self, job: Job) -> Path:
        return HERE / "curves" / self.name / f"{job.name}.csv"

    def curve(self, job: Job) -> list[dict[str, float]]:
        """A row an epoch; empty where nothing was run."""
        if not self.file(job).is_file():
            return []
        with self.file(job).open(newline="") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]

    def is_done(self, job: Job) -> bool:
        curve = self.curve(job)
        return len(curve) >= job.epochs or any(ap >= job.until for ap in smooth(curve))

    def rate(self, row: str) -> float | None:
        """The learning rate of a row's family: the best of its sweep; None while that is not complete."""
        options = self.settings["rows"][row]
        if "rate" in options:
            return options["rate"]
        if "rate_of" in options:
            return self.rate(options["rate_of"])
        sweep = self.settings["sweep"]
        jobs = self.sweep(row)
        if not all(map(self.is_done, jobs)):
            return None
        ends = {job.lr: self.curve(job)[sweep["epochs"] - 1] for job in jobs}
        if max(end["AP"] for end in ends.values()) < sweep["blind"]:
            return min(ends, key=lambda lr: ends[lr]["loss"])
        return max(ends, key=lambda lr: ends[lr]["AP"])

    def sweep(self, row: str) -> list[Job]:
        sweep = self.settings["sweep"]
        return [Job(row, lr, 0, sweep["epochs"]) for lr in sweep["learning_rates"]]

    def target(self, row: str) -> float | None:
        """The AP that a baseline has to reach: Conditional DETR's mean over its seeds after `target_epochs`."""
        at = self.settings["target_epochs"]
        curves = [self.curve(job) for job in self.wanted(row)]
        if not curves or any(len(curve) < at for curve in curves):
            return None
        return mean(smooth(curve)[at - 1] for curve in curves)

    def wanted(self, row: str) -> list[Job]:
        """A row's runs, as far as what they depend on is known."""
        options, lr = self.settings["rows"][row], self.rate(row)
        seeds = range(options.get("seeds", 1))
        if lr is None:
            return []
        if "baseline" not in options:
            return [Job(row, lr, seed, self.settings["epochs"]) for seed in seeds]
        target = self.target(options["baseline"])
        if target is None:
            return []
        return [Job(row, lr, seed, self.settings["baseline_epochs"], target) for seed in seeds]

    def plan(self) -> list[Job]:
        """All runs whose turn has come: sweeps first, then first seeds of every row, then the others."""
        rows = self.settings["rows"]
        sweeps = [job for row, options in rows.items() if not {"rate", "rate_of"} & options.keys() for job in self.sweep(row)]
        runs = [job for row in rows for job in self.wanted(row)]
        order = [*sweeps, *sorted(runs, key=lambda job: (job.until < 1 and job.seed, job.until < 1 and job.row == "detr-32"))]
        return [job for job in order if not self.is_done(job)]


def run(study: Study, job: Job, data: Path, work: Path, threads: int) -> None:
    """Train until the job is done; the curve is written after every stretch of epochs."""
    settings, options = study.settings, study.settings["rows"][job.row]
    model = settings["model"] | options.get("model", {})
    for idle in idle_fields(ModelConfig(**model)):
        del model[idle]
    while not study.is_done(job):
        epochs = min(job.epochs, len(study.curve(job)) + STRIDE)
        done = train(
            data,
            "conditional-detr-tiny",
            work / study.name / job.name,
            epochs=epochs,
            lr=job.lr,
            imgsz=options.get("picture_px", settings["picture_px"]),
            recipe="paper",
            device="cpu",
            workers=0,
            threads=threads,
            seed=job.seed,
            resume=True,
            amp="off",
            model_overrides=model,
            recipe_overrides=settings["training"],
            quiet=True,
        )
        file = study.file(job)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: round(row[key], 5) for key in COLUMNS} for row in done.metrics)
        last = done.metrics[-1]
        print(f"{job.name}: epoch {last['epoch']} of {job.epochs}, loss {last['loss']:.3f}, AP {last['AP']:.3f}", flush=True)


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Whether this process may do what the file stands for; it stays claimed until the process ends or the context does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(file.stem for file in HERE.glob("*.toml")))
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs; keep it to go on later")
    parser.add_argument("--data", type=Path, help="COCO folder, where the study does not make its own")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    study = Study(options.study)
    data = options.data
    if "data" in study.settings:
        data = options.work / f"{study.name}-data"
        with claimed(options.work / "data.lock") as mine:
            if mine and not data.exists():
                make_digits(data, **study.settings["data"])
    if data is None:
        parser.error(f"{study.name} needs --data FOLDER")
    while True:
        for job in [job for job in study.plan() if options.only in job.row]:
            with claimed(options.work / study.name / f"{job.name}.lock") as mine:
                if mine:
                    run(study, job, data, options.work, options.threads)
                    break
        else:
            return


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        os.nice(5)
        main()
