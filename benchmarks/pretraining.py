"""Does pre-training without labels help? Train with and without it, on the same images and from the same start.

Each model is pre-trained once on the training images without their labels. Then it is trained with them for some minutes, for
each seed once from the pre-trained weights and once without, side by side on one thread each, so that both have the same
machine. Both start from the ImageNet weights of the backbone; all else is random. Finished runs are not repeated.

Command: python benchmarks/pretraining.py DATA --output FOLDER
Time: 30 minutes for the pre-training and 10 minutes per model and seed, with two processes; a minute for each evaluation.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from conditional_detr.config.presets import PRESETS
from conditional_detr.device.processor import processor_name
from conditional_detr.evaluation.coco import evaluation_of
from conditional_detr.inference.detector import Detector

MODELS = ("conditional-detr-tiny", "up-detr-tiny")
METRICS = ("AP", "AP50", "AP75")
# The rules of `train` would choose these from the data for a new model, but not for a pre-trained one.
FIXED = ("reference_points", "neck", "pixel_aligned_positions", "num_queries")


def command(name: str, folder: Path, *options: Any) -> None:
    """Run a command of the package on one thread, and continue it if it was interrupted."""
    every = ["-m", "conditional_detr", name, "--output", folder, "--threads", 1, "--workers", 0, "--resume", *options]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        subprocess.run([sys.executable, *map(str, every)], check=True, stdout=log, stderr=log)


def as_preset(model: str) -> Iterator[str]:
    """Options that keep the architecture of the preset, which is that of the pre-trained model."""
    for field in FIXED:
        value = getattr(PRESETS[model].model, field)
        yield from ("--set", f"model.{field}={json.dumps(value)}")
    yield from ("--set", 'init_from=""', "--imgsz", str(PRESETS[model].imgsz))


def trained(model: str, is_pretrained: bool, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Result of a training run on the test split, from its file if it has one."""
    folder = options.output / f"{model}-{'pretrained' if is_pretrained else 'new'}-seed{seed}"
    file = folder.with_suffix(".json")
    if not file.exists():
        start = [options.output / f"{model}-pretraining"] if is_pretrained else [model, *as_preset(model)]
        command("train", folder, "--data", options.data, "--minutes", options.minutes, "--seed", seed, "--model", *start)
        split = "test" if (options.data / "test").exists() else "valid"
        found = evaluation_of(Detector(folder), options.data, split).coco.to_dict()
        epochs = len((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        file.write_text(json.dumps(found | {"epochs": epochs, "processor": processor_name()}, indent=1), encoding="utf-8")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def shown(results: list[dict[str, Any]], metric: str) -> str:
    """Mean over the seeds, with the lowest and the highest value."""
    values = [result[metric] for result in results]
    return f"{mean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set as a COCO folder; the split test is used if there is one")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pretraining-minutes", type=float, default=30.0)
    parser.add_argument("--minutes", type=float, default=10.0, help="training time of a run, with its evaluations")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds of the training, from 0")
    options = parser.parse_args()

    def pretrained(model: str) -> None:
        folder = options.output / f"{model}-pretraining"
        minutes = ("--minutes", options.pretraining_minutes, "--seed", 0)
        command("pretrain", folder, "--data", options.data / "train", "--model", model, *minutes)

    runs = [(model, start, seed) for seed in range(options.seeds) for model in MODELS for start in (True, False)]
    with ThreadPoolExecutor(2) as two:
        list(two.map(pretrained, MODELS))
        results = dict(zip(runs, two.map(lambda run: trained(*run, options), runs), strict=True))
    print("| model | start | " + " | ".join(METRICS) + " | epochs |\n" + "|---" * (len(METRICS) + 3) + "|")
    for model in MODELS:
        for start in (False, True):
            same = [results[model, start, seed] for seed in range(options.seeds)]
            cells = [model, "pre-trained" if start else "not pre-trained", *(shown(same, metric) for metric in METRICS)]
            print("| " + " | ".join([*cells, f"{mean(result['epochs'] for result in same):.1f}"]) + " |")
    print(f"\nProcessor: {', '.join(sorted({result['processor'] for result in results.values()}))}")


if __name__ == "__main__":
    main()
