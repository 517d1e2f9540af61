"""Time COCO evaluators on the same made data, and compare their metrics and intervals.

It compares pycocotools, hotcoco, and faster-coco-eval if it is installed. hotcoco's own bootstrap is compared with one that
evaluates copies of the drawn images.

Command: python benchmarks/evaluators.py        Time: about 1 minute.
"""

import argparse
import contextlib
import copy
import importlib
import importlib.util
import io
import time
from typing import Any

import numpy as np

PACKAGES = {  # name → module, class of the ground truth, class of the evaluation
    "pycocotools": ("pycocotools.cocoeval", "COCO", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "COCO", "COCOeval_faster"),
    "hotcoco": ("hotcoco", "COCO", "COCOeval"),
}


def scene(images: int, classes: int, found: int, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth with crowds and sparse ids, and `found` detections per image."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for i in range(images):
        objects = [
            (np.r_[rng.uniform(0, 500, 2), rng.uniform(3, 200, 2)], int(rng.integers(classes))) for _ in range(rng.integers(16))
        ]
        for box, label in objects:
            row = {"id": len(annotations) + 1, "image_id": 3 * i + 7, "category_id": 2 * label + 1, "bbox": box.tolist()}
            annotations.append(row | {"area": float(box[2] * box[3]), "iscrowd": int(rng.random() < 0.05)})
        for _ in range(found):
            box, label = np.r_[rng.uniform(0, 500, 2), rng.uniform(3, 200, 2)], int(rng.integers(classes))
            if objects and rng.random() < 0.4:
                box, label = objects[rng.integers(len(objects))]
                box = box + rng.normal(0, 4, 4)
            row = {
                "image_id": 3 * i + 7,
                "category_id": 2 * label + 1,
                "bbox": box.tolist(),
                "score": round(float(rng.random()), 3),
            }
            detections.append(row)
    images_ = [{"id": 3 * i + 7, "width": 700, "height": 700} for i in range(images)]
    categories = [{"id": 2 * k + 1, "name": str(k)} for k in range(classes)]
    return {"info": {}, "images": images_, "annotations": annotations, "categories": categories}, detections


def evaluate(package: str, truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[Any, float]:
    """The evaluation, and its seconds without reading the ground truth."""
    module, ground_truth, evaluation = PACKAGES[package]
    if package == "pycocotools":
        coco = importlib.import_module("pycocotools.coco").COCO()
        coco.dataset = copy.deepcopy(truth)
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
    else:
        coco = getattr(importlib.import_module(module), ground_truth)(copy.deepcopy(truth))
    rows = copy.deepcopy(detections)
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        found = getattr(importlib.import_module(module), evaluation)(coco, coco.loadRes(rows), "bbox")
        found.evaluate(), found.accumulate(), found.summarize()
    return found, time.perf_counter() - start


def drawn(truth: dict[str, Any], detections: list[dict[str, Any]], rng: np.random.Generator) -> float:
    """AP of as many images, drawn with replacement; an image that is drawn twice is there twice."""
    ids = [row["id"] for row in truth["images"]]
    chosen = list(enumerate(rng.choice(ids, len(ids)).tolist()))

    def rows(of: list[dict[str, Any]]) -> list[dict[str, Any]]:
        by_image: dict[int, list[dict[str, Any]]] = {}
        for row in of:
            by_image.setdefault(row["image_id"], []).append(row)
        return [row | {"image_id": n} for n, image in chosen for row in by_image.get(image, [])]

    annotations = [row | {"id": n} for n, row in enumerate(rows(truth["annotations"]), 1)]
    content = truth | {"images": [{"id": n} for n, _ in chosen], "annotations": annotations}
    return float(evaluate("hotcoco", content, rows(detections))[0].stats[0])


def main() -> None:
    """Print times, largest differences from pycocotools, and standard deviations of two bootstraps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="evaluations per package; the fastest counts (default: 3)")
    options = parser.parse_args()
    packages = [name for name, (module, *_) in PACKAGES.items() if importlib.util.find_spec(module.split(".")[0])]
    for images, classes, found in ((100, 3, 60), (500, 20, 60), (2000, 80, 100)):
        truth, detections = scene(images, classes, found)
        results = {}
        for name in packages:
            runs = [evaluate(name, truth, detections) for _ in range(1 if name == "pycocotools" else options.rounds)]
            results[name] = runs[0][0], min(seconds for _, seconds in runs)
        theirs = np.asarray(results["pycocotools"][0].eval["precision"])
        for name, (evaluation, seconds) in results.items():
            off = np.abs(np.asarray(evaluation.eval["precision"]) - theirs).max()
            print(f"{images} images, {classes} classes, {name}: {seconds:.3f} s, precision differs by at most {off:.1e}")
    hotcoco = importlib.import_module("hotcoco")
    truth, detections = scene(60, 3, 40)
    whole, nothing = evaluate("hotcoco", truth, detections)[0], evaluate("hotcoco", truth, [])[0]
    own = hotcoco.compare(nothing, whole, n_bootstrap=1000)["ci"]["AP"]["std_err"]
    rng = np.random.default_rng(0)
    copies = np.std([drawn(truth, detections, rng) for _ in range(400)])
    print(f"standard deviation of a resampled AP: hotcoco {own:.4f}, with copies {copies:.4f}")


if __name__ == "__main__":
    main()
