"""Compare the time of a training step and of a prediction between two checkouts of this library.

The checkouts are timed in turns, in random order. A second process of the old checkout is the control.

Command: python benchmarks/checkouts.py OLD NEW
Time: about five minutes on two cores.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from statistics import median

TURNS, RESAMPLES = 15, 4000
# Name → (model, height and width of the input in px, batch size, calls per turn).
KINDS = {
    "tiny step": ("conditional-detr-tiny", (320, 426), 2, 4),
    "tiny prediction": ("conditional-detr-tiny", (320, 426), 1, 12),
    "r50 step": ("conditional-detr-r50", (480, 640), 1, 1),
    "r50 prediction": ("conditional-detr-r50", (480, 640), 1, 2),
}
WORKER = """
import json, sys, time, torch
import conditional_detr
name, (height, width), batch, calls, trains = json.loads(sys.argv[1])
torch.set_num_threads(2)
torch.manual_seed(0)
model = conditional_detr.create_model(name, 91, pretrained_backbone=False)
images = torch.randn(batch, 3, height, width)
targets = [{"labels": torch.tensor([1, 2, 3]), "boxes": torch.rand(3, 4) * 0.3 + 0.2} for _ in range(batch)]
if trains:
    step = conditional_detr.make_step(model, amp="off")
    call = lambda: step(images, None, targets)
else:
    model.eval().to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    def call():
        with torch.inference_mode():
            model(images)
for _ in range(3):
    call()
print("ready", flush=True)
for _ in sys.stdin:
    started = time.perf_counter()
    for _ in range(calls):
        call()
    print((time.perf_counter() - started) / calls, flush=True)
"""


def start(checkout: Path, kind: str) -> subprocess.Popen[str]:
    """Start a process that loads a model from a checkout and times it on request."""
    task = json.dumps([*KINDS[kind], kind.endswith("step")])
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, task], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process


def seconds(process: subprocess.Popen[str]) -> float:
    """Mean time of one call over one turn, in seconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def ratio(new: list[float], old: list[float]) -> str:
    """Median ratio over all turns with its 95 % interval, from bootstrap resampling of the turns."""
    logs = [math.log(a / b) for a, b in zip(new, old, strict=True)]
    resampled = sorted(median(random.choices(logs, k=len(logs))) for _ in range(RESAMPLES))
    low, high = resampled[RESAMPLES // 40], resampled[-RESAMPLES // 40]
    return f"{math.exp(median(logs)):.3f} [{math.exp(low):.3f}, {math.exp(high):.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="folder of the old checkout")
    parser.add_argument("new", type=Path, help="folder of the new checkout")
    options = parser.parse_args()
    for kind in KINDS:
        processes = {name: start(options.new if name == "new" else options.old, kind) for name in ("old", "new", "same")}
        times: dict[str, list[float]] = {name: [] for name in processes}
        for turn in range(TURNS):
            for name in random.Random(turn).sample(list(processes), len(processes)):
                times[name].append(seconds(processes[name]))
        for process in processes.values():
            process.communicate("")
        shown = f"new / old {ratio(times['new'], times['old'])}, same / same {ratio(times['same'], times['old'])}"
        print(f"{kind:<16} {median(times['old']) * 1e3:.1f} ms, {shown}", flush=True)


if __name__ == "__main__":
    main()
