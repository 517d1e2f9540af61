"""Make a set of digits in which one of the classes is in 1 % of the training images, for measuring repeat-factor sampling.

Command: python benchmarks/rare_class.py rare
         cdetr train --data rare --epochs 6 --imgsz 96 --set init_from=conditional-detr-tiny-shapes --set repeat_threshold=0.1
Time: about 2 minutes per run on 2 cores.
"""

import argparse
import json
from pathlib import Path

from conditional_detr.data.digits import make_digits

CLASS, KEPT = "7", 7  # the rare class, and the number of training images that keep it


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="new folder")
    folder = parser.parse_args().output
    make_digits(folder, train=1100, valid=250, size=96, seed=5)
    file = folder / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    (rare,) = (category["id"] for category in content["categories"] if category["name"] == CLASS)
    having = {row["image_id"] for row in content["annotations"] if row["category_id"] == rare}
    dropped = having - set(sorted(having)[:KEPT])
    for key, name in (("images", "id"), ("annotations", "image_id")):
        content[key] = [row for row in content[key] if row[name] not in dropped]
    file.write_text(json.dumps(content), encoding="utf-8")
    print(f"{len(content['images'])} training images, {KEPT} of them with a {CLASS}")


if __name__ == "__main__":
    main()
