"""Small-scale replication of the paper: how many epochs DETR and Conditional DETR need, and how each ablation changes the AP.

The settings are in the TOML files in `convergence/`. Every run writes its learning curve to `convergence/curves/`, one line
per epoch. Finished runs are not repeated, and an interrupted run continues from its last checkpoint. Several processes with the
same --work folder share the runs between them.

Command: python benchmarks/convergence.py digits --work DIR
         python benchmarks/convergence.py blood-cells --work DIR --data FOLDER
Time: see docs/results.md; an epoch on digits takes about 13 s on one core.
"""

import argparse
import csv
import fcntl
import hashlib
import io
import json
import os
import shutil
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from conditional_detr import pretrain, train
from conditional_detr.config.parts import unused_fields
from conditional_detr.config.schema import ModelConfig
from conditional_detr.data.digits import make_digits

HERE = Path(__file__).parent / "convergence"
COLUMNS = ("epoch", "seconds", "loss", "AP", "AP50", "AP75")
MODEL = "conditional-detr-tiny"
STRIDE = 10  # epochs per call to `train`; the stop condition is checked between calls


def smooth(curve: list[dict[str, float]]) -> list[float]:
    """AP by epoch, averaged over the last three epochs, because the AP of a single epoch varies by 0.01 to 0.02."""
    aps = [row["AP"] for row in curve]
    return [mean(aps[max(0, i - 2) : i + 1]) for i in range(len(aps))]


@dataclass(frozen=True)
class Job:
    """A training run of the study: ends after `epochs` epochs, or earlier once it reaches the AP `until`."""

    row: str
    lr: float
    seed: int
    epochs: int
    until: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.row}-lr{self.lr:g}-seed{self.seed}"


@dataclass
class Study:
    """The settings of one TOML file and the learning curves on disk."""

    name: str
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = tomllib.loads((HERE / f"{self.name}.toml").read_text(encoding="utf-8"))

    def file(self, job: Job) -> Path:
        return HERE / "curves" / self.name / f"{job.name}.csv"

    def model(self, row: str) -> dict[str, Any]:
        """Model fields of a row, without those that have no effect in combination with the others."""
        fields = self.settings["model"] | self.settings["rows"][row].get("model", {})
        idle = unused_fields(ModelConfig(**fields))
        return {key: value for key, value in fields.items() if key not in idle}

    def image_px(self, row: str) -> int:
        return int(self.settings["rows"][row].get("image_px", self.settings["image_px"]))

    def fingerprint(self, row: str) -> str:
        """Hash of all settings that a row's curve depends on. It is the first line of the curve's file."""
        parts = [self.model(row), self.image_px(row), self.settings["training"], self.settings.get("data")]
        if pretraining := self.settings["rows"][row].get("pretraining"):
            parts.append(pretraining)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def curve(self, job: Job) -> list[dict[str, float]]:
        """Learning curve of a run, one entry per epoch. Empty if the run has not started."""
        if not self.file(job).is_file():
            return []
        first, *lines = self.file(job).read_text(encoding="utf-8").splitlines()
        if first != f"# settings {self.fingerprint(job.row)}":
            raise SystemExit(
                f"{self.file(job)} was made with other settings than {self.name}.toml has now. Remove it to run again"
            )
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]

    def write(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """Replace the file of a curve atomically, because other processes may be reading it."""
        text = io.StringIO()
        text.write(f"# settings {self.fingerprint(job.row)}\n")
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: round(row[key] or 0.0, 5) for key in COLUMNS} for row in rows)
        self.file(job).parent.mkdir(parents=True, exist_ok=True)
        new = self.file(job).with_suffix(".new")
        new.write_text(text.getvalue(), encoding="utf-8")
        new.replace(self.file(job))

    def is_done(self, job: Job) -> bool:
        """Whether a run is complete: full length, or target AP reached and at least as long as the other rows."""
        curve = self.curve(job)
        arrived = len(curve) >= self.settings["epochs"] and any(ap >= job.until for ap in smooth(curve))
        return arrived or len(curve) >= job.epochs

    def rate(self, row: str) -> float | None:
        """Best learning rate of the row's sweep. None until the sweep is complete."""
        options = self.settings["rows"][row]
        if "rates_of" in self.settings:
            return Study(self.settings["rates_of"]).rate(row)
        if "rate_of" in options:
            return self.rate(options["rate_of"])
        jobs = self.sweep(row)
        if not all(map(self.is_done, jobs)):
            return None
        ends = {job.lr: self.curve(job)[: job.epochs] for job in jobs}
        aps = {lr: smooth(curve)[-1] for lr, curve in ends.items()}
        if max(aps.values()) < self.settings["sweep"]["blind"]:
            return min(ends, key=lambda lr: ends[lr][-1]["loss"])
        return max(aps, key=lambda lr: aps[lr])

    def sweep(self, row: str) -> list[Job]:
        """Sweep runs of a row: the first seed at every learning rate. Empty for a row that uses the rate of another row."""
        options, sweep = self.settings["rows"][row], self.settings.get("sweep")
        if sweep is None or "rate_of" in options:
            return []
        return [Job(row, lr, 0, options.get("sweep_epochs", sweep["epochs"])) for lr in sweep["learning_rates"]]

    def target(self, row: str) -> float | None:
        """AP that a baseline has to reach: the mean over the seeds of `row` after `target_epochs`. None until it is known."""
        at = self.settings["target_epochs"]
        curves = [self.curve(job) for job in self.wanted(row)]
        if not curves or any(len(curve) < at for curve in curves):
            return None
        return mean(smooth(curve)[at - 1] for curve in curves)

    def wanted(self, row: str) -> list[Job]:
        """Runs of a row. Empty until its learning rate and, for a baseline, its target AP are known."""
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
        """Unfinished runs in order: sweeps, first seeds and rows that set a target, other seeds of baselines, all others."""
        rows = self.settings["rows"]
        ours = {options["baseline"] for options in rows.values() if "baseline" in options}

        def turn(job: Job) -> tuple[int, int]:
            first = not job.seed or job.row in ours
            return 0 if first else 1 if "baseline" in rows[job.row] else 2, job.seed

        sweeps = [job for row in rows for job in self.sweep(row)]
        runs = [job for row in rows for job in self.wanted(row)]
        return [job for job in [*sweeps, *sorted(runs, key=turn)] if not self.is_done(job)]


def settings(study: Study, job: Job, threads: int) -> dict[str, Any]:
    """Settings that pre-training and training of a job share."""
    size = study.image_px(job.row)
    return {
        "imgsz": size, "seed": job.seed, "device": "cpu", "workers": 0, "threads": threads, "amp": "off", "resume": True,
        "quiet": True,
    }  # fmt: skip


def pretrained(study: Study, job: Job, data: Path, work: Path, threads: int) -> Path:
    """Pre-train the model of a row, once for each seed. Other processes that need it wait."""
    folder = work / study.name / f"{job.row}-pretraining-seed{job.seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        pretrain(
            data / "train",
            MODEL,
            folder,
            model_overrides=study.model(job.row),
            **settings(study, job, threads),
            **study.settings["rows"][job.row]["pretraining"],
        )
    return folder


def run(study: Study, job: Job, data: Path, work: Path, threads: int) -> None:
    """Train until the job is done. The curve is written after every `STRIDE` epochs."""
    start: dict[str, Any] = {"model": MODEL, "model_overrides": study.model(job.row)}
    if "pretraining" in study.settings["rows"][job.row]:
        start = {"model": pretrained(study, job, data, work, threads)}
    while not study.is_done(job):
        done = train(
            data,
            output=work / study.name / job.name,
            epochs=min(job.epochs, len(study.curve(job)) + STRIDE),
            lr=job.lr,
            recipe="paper",
            recipe_overrides=study.settings["training"],
            **settings(study, job, threads),
            **start,
        )
        study.write(job, done.metrics)
        last = done.metrics[-1]
        print(f"{job.name}: epoch {last['epoch']} of {job.epochs}, loss {last['loss']:.3f}, AP {last['AP']:.3f}", flush=True)


def make_data(study: Study, work: Path) -> Path:
    """Make the study's images once. The first process makes them while the others wait."""
    data = work / f"{study.name}-data"
    work.mkdir(parents=True, exist_ok=True)
    with (work / "data.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        if not data.exists():
            half = data.with_suffix(".new")
            shutil.rmtree(half, ignore_errors=True)
            make_digits(half, **study.settings["data"])
            half.replace(data)
    return data


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Try to lock a file. Yields whether it succeeded; the lock is released at the end of the context or of the process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def main() -> None:
    """Run everything that is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(file.stem for file in HERE.glob("*.toml")))
    parser.add_argument("--work", type=Path, required=True, help="folder for data and runs; keep it to continue later")
    parser.add_argument("--data", type=Path, help="COCO folder, for a study that does not make its own images")
    parser.add_argument("--only", default="", help="run only rows whose name contains this text")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args()
    study = Study(options.study)
    data = make_data(study, options.work) if "data" in study.settings else options.data
    if data is None:
        parser.error(f"{study.name} needs --data FOLDER")
    while wanted := [job for job in study.plan() if options.only in job.row]:
        for job in wanted:
            with claimed(options.work / study.name / f"{job.name}.lock") as mine:
                if mine:
                    run(study, job, data, options.work, options.threads)
                    break
        else:
            time.sleep(30)  # runs that finish elsewhere may make new ones possible


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        os.nice(5)
        main()
