"""Learn from few images in a few minutes: one table for several data sets, models, times, numbers of images and seeds.

Finished runs are not repeated, so the command continues where it was stopped. Each run keeps its learning curve on the
validation split as `curve.csv`; `results.csv` has one row per run.

Command: python benchmarks/small_data.py DATA… --minutes 20 --seeds 1
         python benchmarks/small_data.py DATA… --minutes 10 --peers
         python benchmarks/small_data.py DATA… --minutes 5 10 20 40       # AP over the time
         python benchmarks/small_data.py DATA… --images 50 100 200        # AP over the number of training images
Time: minutes × data sets × models × seeds, and about a minute per run for the evaluation.
"""

import argparse
import csv
import itertools
import json
import random
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from peers import PEERS

from conditional_detr.config.presets import PRESETS
from conditional_detr.device.processor import processor_name
from conditional_detr.evaluation.coco import evaluation_of
from conditional_detr.inference.detector import Detector

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
HERE, ANNOTATIONS = Path(__file__).parent, "_annotations.coco.json"


def part_of(data: Path, images: int, output: Path) -> Path:
    """A data set with the first images of a random order of the training images; 0 = all. Parts contain smaller parts."""
    if not images:
        return data
    part = output / f"{data.name}-{images}-images"
    if part.exists():
        return part
    (part / "train").mkdir(parents=True)
    content = json.loads((data / "train" / ANNOTATIONS).read_text(encoding="utf-8"))
    content["images"] = random.Random(0).sample(content["images"], len(content["images"]))[:images]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
    (part / "train" / ANNOTATIONS).write_text(json.dumps(content), encoding="utf-8")
    for image in content["images"]:
        (part / "train" / image["file_name"]).symlink_to((data / "train" / image["file_name"]).resolve())
    for split in ("valid", "test"):
        if (data / split).exists():
            (part / split).symlink_to((data / split).resolve())
    return part


def trained(model: str, data: Path, folder: Path, minutes: float, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train one of our models with its defaults, and evaluate it."""
    command = ["-m", "conditional_detr", "train", "--data", data, "--model", model, "--minutes", minutes]
    command += ["--output", folder / "run", "--seed", seed, *(["--threads", options.threads] if options.threads else [])]
    for setting in options.set:
        command += ["--set", setting]
    _python([*command, "--resume"], folder)
    epochs = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    spent = list(itertools.accumulate(row["seconds"] for row in epochs))
    rows = [[f"{t:.0f}", e["epoch"], e["AP"], e["AP50"]] for t, e in zip(spent, epochs, strict=True) if e.get("AP") is not None]
    with (folder / "curve.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["seconds", "epoch", "AP", "AP50"], *rows])
    config = tomllib.loads((folder / "run/config.toml").read_text(encoding="utf-8"))
    split = "test" if (data / "test").exists() else "valid"
    found = evaluation_of(Detector(folder / "run"), data, split).coco.to_dict()
    start = config["training"]["init_from"] or "ImageNet"
    return found | {
        "start": start, "epochs": len(epochs), "seconds": spent[-1], "imgsz": config["imgsz"], "split": split
    }  # fmt: skip


def peer(model: str, data: Path, folder: Path, minutes: float, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train and evaluate a detector of another library."""
    command = [HERE / "peers.py", model, data, "--output", folder, "--minutes", minutes, "--seed", seed]
    _python([*command, *(["--threads", options.threads] if options.threads else [])], folder)
    return dict(json.loads((folder / "result.json").read_text(encoding="utf-8")))


def _python(command: list[Any], folder: Path) -> None:
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run([sys.executable, *map(str, command)], check=True, stdout=log, stderr=log)


def result_of(model: str, data: Path, minutes: float, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The result of a run, from its file if it has one."""
    folder = options.output / data.name / f"{model}-{minutes:g}min-seed{seed}"
    file = folder / "result.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    settings = {"path": str(data.resolve()), "threads": options.threads, "set": [] if model in PEERS else options.set}
    if "settings" in known and known["settings"] != settings:
        raise SystemExit(f"{file} was made with {known['settings']}, not {settings}: give another --output")
    if "settings" not in known:
        folder.mkdir(parents=True, exist_ok=True)
        known = (peer if model in PEERS else trained)(model, data, folder, minutes, options, seed)
        known |= {"data": data.name, "model": model, "minutes": minutes, "seed": seed, "processor": processor_name()}
        known["settings"] = settings
        file.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return dict(known)


def row_of(results: list[dict[str, Any]]) -> list[str]:
    """One row of the table: the mean over the seeds. The interval is that of the first seed, over the images."""
    first = results[0]
    values = [_mean([result[name] for result in results]) for name in METRICS]
    low, high = first["intervals"]["AP"]
    rest = [_mean([result[name] for result in results], 1 if name == "epochs" else 0) for name in ("epochs", "seconds")]
    return [
        first["data"],
        first["model"],
        f"{first['minutes']:g}",
        first["start"],
        str(first["imgsz"]),
        *values,
        f"{low:.3f}–{high:.3f}",
        *rest,
    ]


def _mean(values: list[float | None], digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.{digits}f}" if known else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="data sets as COCO folders; the split test is used if there is one")
    parser.add_argument("--minutes", type=float, nargs="+", default=[20.0], help="training time of a run, with its evaluations")
    parser.add_argument("--images", type=int, nargs="+", default=[0], help="number of training images; 0 (default): all")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0")
    parser.add_argument("--models", nargs="+", choices=[*PRESETS, *PEERS], default=["conditional-detr-tiny"])
    parser.add_argument("--peers", action="store_true", help="also the detectors of other libraries")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="setting of our models, as of train")
    parser.add_argument("--output", type=Path, default=Path("small-data"))
    options = parser.parse_args()
    models = [*options.models, *(name for name in PEERS if options.peers and name not in options.models)]
    columns = ["data", "model", "minutes", "start", "px", *METRICS, "95 % interval of AP", "epochs", "seconds"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    every = []
    parts = [part_of(data, images, options.output) for data in options.data for images in options.images]
    for data, model, minutes in itertools.product(parts, models, options.minutes):
        results = [result_of(model, data, minutes, options, seed) for seed in range(options.seeds)]
        every += results
        print("| " + " | ".join(row_of(results)) + " |", flush=True)
    print(f"\nProcessor: {', '.join(sorted({result['processor'] for result in every}))}")
    fields = ["data", "model", "seed", "minutes", "start", "imgsz", *METRICS, "epochs", "seconds", "processor"]
    with (options.output / "results.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(every)


if __name__ == "__main__":
    main()
