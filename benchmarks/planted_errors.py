"""Plant errors in the labels of a COCO data set, and count how many of them a cross-validation finds.

Command: python benchmarks/planted_errors.py plant DATA PLANTED
         cdetr train --data PLANTED --folds 3 --epochs 3 --output FOLDS
         python benchmarks/planted_errors.py count PLANTED FOLDS
Time: about 3 minutes for 360 images of digits on 2 cores.
"""

import argparse
import hashlib
import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

FRACTION, SEED = 0.05, 0
KINDS = ("box removed", "other class", "box moved", "box added")
FILE, LOG = "_annotations.coco.json", "planted.json"
SAME = 0.4  # IoU of a planted error and a listed one


def plant(data: Path, output: Path) -> None:
    """Write a copy of a data set with errors in 5 % of the boxes, a quarter of each kind, and the list `planted.json`."""
    rng, log = random.Random(SEED), []
    shutil.copytree(data, output)
    for file in sorted(output.glob(f"*/{FILE}")):
        content = json.loads(file.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        ids = [category["id"] for category in content["categories"]]
        count = len(content["annotations"])
        kind_of = {k: KINDS[n % len(KINDS)] for n, k in enumerate(rng.sample(range(count), round(FRACTION * count)))}
        kept = []
        for k, row in enumerate(content["annotations"]):
            kind, image = kind_of.get(k), images[row["image_id"]]
            x, y, w, h = box = row["bbox"]
            new = dict(row)
            if kind == "other class":
                new["category_id"] = rng.choice([id_ for id_ in ids if id_ != row["category_id"]])
            elif kind == "box moved":
                right, down = x + 1.6 * w < image["width"], y + 1.3 * h < image["height"]
                new["bbox"] = box = [x + (0.6 if right else -0.6) * w, y + (0.3 if down else -0.3) * h, w, h]
            elif kind == "box added":
                kept.append(row)
                box = [rng.uniform(0, image["width"] - w), rng.uniform(0, image["height"] - h), w, h]
                new |= {"id": 10**6 + k, "bbox": box, "category_id": rng.choice(ids)}
            if kind is not None:
                log.append({"file": str(file.parent / image["file_name"]), "kind": kind, "box": box})
            if kind != "box removed":
                kept.append(new)
        file.write_text(json.dumps(content | {"annotations": kept}), encoding="utf-8")
    (output / LOG).write_text(json.dumps(log), encoding="utf-8")
    print(f"planted {len(log)} errors: {dict(Counter(row['kind'] for row in log))}")


def iou(a: list[float], b: list[float]) -> float:
    """IoU of two boxes xyxy."""
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def count(planted: Path, folds: Path) -> None:
    """Print precision and recall of `label_errors.json`."""
    log: list[dict[str, Any]] = json.loads((planted / LOG).read_text(encoding="utf-8"))
    errors = json.loads((folds / "label_errors.json").read_text(encoding="utf-8"))
    for row in log:
        x, y, w, h = row["box"]
        row |= {"hash": _hash(row["file"]), "xyxy": [x, y, x + w, y + h], "found": False}
    is_right = []
    for error in errors:
        boxes = [box for box in (error["box_xyxy"], error["found_box_xyxy"]) if box]
        hash_ = _hash(error["image"])
        meant = [row for row in log if row["hash"] == hash_ and any(iou(row["xyxy"], box) > SAME for box in boxes)]
        for row in meant:
            row["found"] = True
        is_right.append(bool(meant))
    first = is_right[: len(log)]
    precision, of_first = (sum(each) / max(1, len(each)) for each in (is_right, first))
    recall = sum(row["found"] for row in log) / max(1, len(log))
    print(f"{len(errors)} listed: precision {precision:.2f}, of the first {len(first)} {of_first:.2f}; recall {recall:.2f}")
    for kind in KINDS:
        own = [row["found"] for row in log if row["kind"] == kind]
        print(f"{kind}: {sum(own)} of {len(own)} found")


def _hash(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plant", "count"))
    parser.add_argument("first", type=Path, help="data set; for count, the one with planted errors")
    parser.add_argument("second", type=Path, help="new folder; for count, that of the cross-validation")
    options = parser.parse_args()
    (plant if options.what == "plant" else count)(options.first, options.second)


if __name__ == "__main__":
    main()
