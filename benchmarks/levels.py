"""What several levels cost: parameters, multiply-adds, memory and time beside one level, for one image of 800 x 1333 px.

Each measurement runs in its own process. The models take turns, so that changes of the machine's speed affect all of them.

Command: python benchmarks/levels.py        Time: about 5 minutes on 2 cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch

from conditional_detr import create_model
from conditional_detr.inference.model_cost import multiply_adds

HEIGHT, WIDTH = 800, 1333
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "one level, stride 32": ("conditional-detr-r50", {}),
    "one level, dilated to stride 16 (DC5)": ("conditional-detr-dc5-r50", {}),
    "strides 8, 16 and 32, dense encoder on the coarsest": ("conditional-detr-ms-r50", {}),
    "strides 8, 16 and 32, deformable encoder": ("conditional-detr-ms-r50", {"encoder_attention": "deformable"}),
}


def peak_mb() -> float:
    """Peak memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(case: str, threads: int) -> dict[str, float]:
    """Seconds of one image, the best of three, and peak memory above that of the loaded model, MB."""
    torch.set_num_threads(threads)
    name, overrides = CASES[case]
    model = create_model(name, num_classes=91, pretrained_backbone=False, **overrides).eval()
    images, before, seconds = torch.randn(1, 3, HEIGHT, WIDTH), peak_mb(), []
    with torch.inference_mode():
        for _ in range(3):
            start = time.perf_counter()
            model(images)
            seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "MB": peak_mb() - before}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each model (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--only", choices=CASES, help=argparse.SUPPRESS)  # a measurement in its own process
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(options.only, options.threads)))
        return
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case, results in found.items():
            command = [sys.executable, __file__, "--only", case, "--threads", str(options.threads)]
            results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    print("| memory | parameters, M | G multiply-adds | peak memory, MB | ms |\n|---|---|---|---|---|")
    for case, results in found.items():
        name, overrides = CASES[case]
        with torch.device("meta"):
            model = create_model(name, num_classes=91, pretrained_backbone=False, **overrides).eval()
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        memory, seconds = (median(result[key] for result in results) for key in ("MB", "seconds"))
        work = multiply_adds(model, HEIGHT, WIDTH) / 1e9
        print(f"| {case} | {millions:.1f} | {work:.0f} | {memory:.0f} | {1000 * seconds:.0f} |")


if __name__ == "__main__":
    main()
