"""Make digits in which each half of the images labels half of the classes, for measuring training on merged data sets.

Four folders are written: `full`, with all labels; `low` and `high`, its halves with labels of 0–4 and of 5–9 only; `merged`,
made of both by `cdetr data merge`; and `blind`, the same without the lists of the labelled classes.

Command: python benchmarks/merged_sets.py sets
         cdetr train --data sets/merged --epochs 6 --imgsz 96 --threads 1 --output runs/merged \\
             --set init_from=conditional-detr-tiny-shapes
         cdetr eval runs/merged --data sets/full
         the same for sets/full and sets/blind
Time: about 4 minutes per run on 2 cores.
"""

import argparse
import json
import shutil
from pathlib import Path

from conditional_detr.cli.app import main as cdetr
from conditional_detr.data.digits import make_digits

FILE = "_annotations.coco.json"


def half(full: Path, output: Path, part: int) -> None:
    """Copy every second image, from image `part` on, with the labels of 0–4 (part 0) or 5–9 (part 1)."""
    for split in ("train", "valid"):
        content = json.loads((full / split / FILE).read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in content["categories"]}
        images = content["images"][part::2]
        ids = {image["id"] for image in images}
        rows = [row for row in content["annotations"] if row["image_id"] in ids]
        rows = [row for row in rows if (names[row["category_id"]] >= "5") == bool(part)]
        (output / split).mkdir(parents=True)
        for image in images:
            shutil.copy(full / split / image["file_name"], output / split)
        (output / split / FILE).write_text(json.dumps(content | {"images": images, "annotations": rows}), encoding="utf-8")


def blind(merged: Path, output: Path) -> None:
    """Copy a merged set without the lists of the labelled classes."""
    shutil.copytree(merged, output)
    for file in output.glob(f"*/{FILE}"):
        content = json.loads(file.read_text(encoding="utf-8"))
        for image in content["images"]:
            image.pop("labelled_category_ids", None)
        file.write_text(json.dumps(content), encoding="utf-8")


def main() -> None:
    """Write the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="new folder")
    folder = parser.parse_args().output
    make_digits(folder / "full", train=1200, valid=250, size=96, seed=7)
    half(folder / "full", folder / "low", 0)
    half(folder / "full", folder / "high", 1)
    try:
        cdetr(["data", "merge", *(str(folder / name) for name in ("low", "high", "merged"))])
    except SystemExit as end:
        if end.code:
            raise
    blind(folder / "merged", folder / "blind")


if __name__ == "__main__":
    main()
