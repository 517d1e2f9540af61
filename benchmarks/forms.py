"""Compare forms of a model on small data: the same minutes, the same start, two runs beside each other on one thread each.

No run starts from detector weights, since the bundled ones fit only one form. Finished runs are not repeated.

Command: python benchmarks/forms.py DATA… --output FOLDER --minutes 8
Time: minutes × data sets × forms × seeds / 2, and a minute for each evaluation.
"""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from conditional_detr.device.processor import processor_name
from conditional_detr.evaluation.coco import evaluation_of
from conditional_detr.inference.detector import Detector

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
LEVELS = {"model.strides": [8, 16, 32], "model.neck": "last"}
REFINED = {"model.box_refinement": True}
FORMS: dict[str, dict[str, Any]] = {
    "single scale": {},
    "refined boxes": REFINED,
    "box-conditional": {**REFINED, "model.cross_attention": "box_conditional"},
    "encoder boxes": {**REFINED, "model.cross_attention": "box_conditional", "model.reference_points": "encoder_boxes"},
    "three scales": LEVELS,
    "three scales, refined": {**LEVELS, **REFINED},
    "three scales, deformable encoder": {**LEVELS, "model.encoder_attention": "deformable"},
}
# The same for all forms: the rules of `train` choose the first two for some forms only.
SAME = {"model.reference_points": "encoder", "model.pixel_aligned_positions": True, "init_from": ""}


def result_of(data: Path, form: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The result of a run, from its file if it has one."""
    length = f"{options.minutes:g}min-{options.imgsz}px-{options.threads}threads"
    folder = options.output / data.name / length / f"{form.replace(' ', '-').replace(',', '')}-seed{seed}"
    file = folder.with_suffix(".json")
    if not file.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        settings = SAME | FORMS[form]
        command = [sys.executable, "-m", "conditional_detr", "train", "--data", data, "--output", folder, "--resume"]
        command += ["--minutes", options.minutes, "--seed", seed, "--threads", options.threads, "--imgsz", options.imgsz]
        for key, value in settings.items():
            command += ["--set", f"{key}={json.dumps(value)}"]
        with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
            subprocess.run([*map(str, command)], check=True, stdout=log, stderr=log)
        split = "test" if (data / "test").exists() else "valid"
        found = evaluation_of(Detector(folder), data, split).coco.to_dict()
        epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        found |= {"epochs": len(epochs), "valid": max(row["AP"] or 0 for row in epochs), "processor": processor_name()}
        file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="data sets as COCO folders; the split test is used if there is one")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads of a run (default: 1, two runs at a time; 2: one run)"
    )
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    options = parser.parse_args()
    runs = [(data, form, seed) for data in options.data for seed in range(options.seeds) for form in options.forms]
    with ThreadPoolExecutor(2 if options.threads == 1 else 1) as pool:
        results = dict(zip(runs, pool.map(lambda run: result_of(*run, options), runs), strict=True))
    print(
        "| data | form | "
        + " | ".join(METRICS)
        + " | valid | 95 % interval of AP | epochs |\n"
        + "|---" * (len(METRICS) + 5)
        + "|"
    )
    for data in options.data:
        for form in options.forms:
            same = [results[data, form, seed] for seed in range(options.seeds)]
            cells = [f"{mean(r[name] or 0 for r in same):.3f}" for name in (*METRICS, "valid")]
            low, high = same[0]["intervals"]["AP"]
            epochs = f"{mean(r['epochs'] for r in same):.1f}"
            print("| " + " | ".join([data.name, form, *cells, f"{low:.3f}–{high:.3f}", epochs]) + " |")
    print(f"\nProcessor: {', '.join(sorted({result['processor'] for result in results.values()}))}")


if __name__ == "__main__":
    main()
