"""`cdetr demo`: the whole job on the digits set, offline: data, training, evaluation, prediction."""

import json
import shutil
import time
from pathlib import Path

from conditional_detr.cli.printing import print_metrics
from conditional_detr.errors import RunError
from conditional_detr.storage.run_files import BEST_FIGURES, REPORT

SCENE_PX = 128
TRAIN_SCENES, VALID_SCENES, SHOWN = 2200, 300, 12
MINUTES = 3.0
# Scenes come at one size, and each is seen once or twice: the general augmentation would only make this set harder.
RECIPE = {"crop": 0.0, "scales": (1.0, 1.0), "color_jitter": 0.0}


def demo(*, output: Path = Path("demo")) -> None:
    """Train on real handwritten digits, evaluate and predict: minutes, offline, nothing else needed.

    Parameters
    ----------
    output
        New folder for data, run, figures and images.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise RunError(f"{output} is not empty: give the demo a new folder (--output)")
    from conditional_detr.data.digits import make_digits
    from conditional_detr.evaluation.coco import CocoMetrics
    from conditional_detr.inference.detector import Detector
    from conditional_detr.inference.predict import find_images, predict
    from conditional_detr.training.trainer import train

    started = time.monotonic()
    print(f"1/3  making {TRAIN_SCENES} + {VALID_SCENES} scenes of handwritten digits over photographs")
    make_digits(output / "data", TRAIN_SCENES, VALID_SCENES, SCENE_PX)
    print("2/3  training conditional-detr-tiny, and evaluating it on scenes that it has not seen")
    run = train(
        output / "data",
        "conditional-detr-tiny",
        output / "run",
        minutes=MINUTES,
        imgsz=SCENE_PX,
        recipe_overrides=RECIPE,
    )
    for name in (BEST_FIGURES, REPORT):
        shutil.copyfile(run.folder / name, output / name)
    print(f"3/3  drawing {SHOWN} of them")
    predict(Detector(run.folder), find_images([str(output / "data" / "valid")])[:SHOWN], output / "predictions")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    print_metrics(CocoMetrics(**json.loads((output / BEST_FIGURES).read_text(encoding="utf-8"))))
    print(f"done in {minutes} min {seconds} s. Look at {output}/report.html and {output}/predictions/")
