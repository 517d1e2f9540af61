"""Train the bundled model `conditional-detr-tiny-digits` and store its weights in the package, as 16-bit floats.

The training images are scenes of digits, and mosaics of four scenes in one image, so that both few large and many small objects
occur. The two commands take an hour and a half on one core. The second starts from the weights of the first.

    python benchmarks/shipped_digits.py --work DIR --minutes 55 --threads 1
    python benchmarks/shipped_digits.py --work AGAIN --start DIR/run --minutes 30 --threads 1
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from conditional_detr import train
from conditional_detr.data.digits import make_digits
from conditional_detr.weights.recognise import DESCRIPTION, SHIPPED, WEIGHTS

NAME = "conditional-detr-tiny-digits"
SCENES, MOSAICS, VALID = 6000, 2000, 200
PARTS = {"num_queries": 40}
RECIPE = {"batch": 4, "query_groups": 3, "lr_backbone": 1e-4, "scales": (0.6, 1.4), "crop": 0.3}


def add_mosaics(folder: Path, number: int) -> None:
    """Add mosaics of 2 × 2 randomly chosen scenes to a split."""
    file = folder / "_annotations.coco.json"
    content = json.loads(file.read_text())
    of_image: dict[int, list] = {}
    for annotation in content["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    rng, scenes = np.random.default_rng(0), content["images"][:SCENES]
    for i in range(number):
        new_id = len(content["images"]) + 1
        parts = [scenes[j] for j in rng.choice(len(scenes), 4, replace=False)]
        side = parts[0]["width"]
        image = Image.new("RGB", (2 * side, 2 * side))
        for k, part in enumerate(parts):
            left, top = side * (k % 2), side * (k // 2)
            with Image.open(folder / part["file_name"]) as scene:
                image.paste(scene, (left, top))
            for a in of_image.get(part["id"], []):
                x, y, w, h = a["bbox"]
                moved = {"id": len(content["annotations"]) + 1, "image_id": new_id, "bbox": [x + left, y + top, w, h]}
                content["annotations"].append(a | moved)
        name = f"mosaic-{i:05d}.png"
        image.save(folder / name, compress_level=1)
        content["images"].append({"id": new_id, "file_name": name, "width": 2 * side, "height": 2 * side})
    file.write_text(json.dumps(content))


def ship(run: Path, name: str) -> None:
    """Copy the best model of a run into the package, with its weights as 16-bit floats."""
    target = SHIPPED / name
    target.mkdir(parents=True, exist_ok=True)
    weights = {key: value.half() for key, value in load_file(run / "best" / WEIGHTS).items()}
    assert all(torch.isfinite(value).all() for value in weights.values())
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    (target / WEIGHTS).chmod(0o644)
    (target / DESCRIPTION).write_bytes((run / "best" / DESCRIPTION).read_bytes())
    print(f"{target}: {(target / WEIGHTS).stat().st_size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="new folder for the data and the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="training time in minutes (default: 60)")
    parser.add_argument("--start", default="", help="earlier run of this script to start from")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 (default) = all available")
    arguments = parser.parse_args()
    data, run = arguments.work / "data", arguments.work / "run"
    if not data.exists():
        make_digits(data, SCENES, VALID, seed=7)
        add_mosaics(data / "train", MOSAICS)
    train(
        data, output=run, minutes=arguments.minutes, imgsz=160, threads=arguments.threads, model_overrides=PARTS,
        recipe_overrides=RECIPE | {"init_from": arguments.start}, resume=True,
    )  # fmt: skip
    ship(run, NAME)


if __name__ == "__main__":
    main()
