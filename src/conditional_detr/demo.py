"""The whole job on the digits set, offline: data, training, evaluation, prediction."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from conditional_detr.data.digits import make_digits
from conditional_detr.errors import RunError
from conditional_detr.evaluation.coco import CocoMetrics
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.predict import find_pictures, predict
from conditional_detr.training.files import BEST_FIGURES, REPORT
from conditional_detr.training.run import train

SCENE_PX = 128
TRAIN_SCENES, VALID_SCENES, SHOWN = 2200, 300, 12
MINUTES = 3.0
# Scenes come at one size, and each is seen once or twice: the general augmentation would only make this set harder.
RECIPE = {"crop": 0.0, "scales": (1.0, 1.0), "color": 0.0}


@dataclass(frozen=True)
class Demo:
    """What the demo left: the folder, the figures on the validation scenes, and the seconds of the whole."""

    folder: Path
    metrics: CocoMetrics
    seconds: float


def demo(output: str | Path) -> Demo:
    """Make the digits set, train `conditional-detr-tiny` on it, evaluate and predict.

    Leaves `data/`, `run/`, `metrics.json`, `report.html` and `predictions/` in `output`, which must be new or empty.
    """
    started = time.monotonic()
    folder = Path(output)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RunError(f"{folder} is not empty: give the demo a new folder (--output)")
    print(f"1/3  making {TRAIN_SCENES} + {VALID_SCENES} scenes of handwritten digits over photographs")
    make_digits(folder / "data", TRAIN_SCENES, VALID_SCENES, SCENE_PX)
    print("2/3  training conditional-detr-tiny, and evaluating it on scenes that it has not seen")
    run = train(
        folder / "data",
        "conditional-detr-tiny",
        folder / "run",
        minutes=MINUTES,
        imgsz=SCENE_PX,
        recipe_overrides=RECIPE,
    )
    for name in (BEST_FIGURES, REPORT):
        shutil.copyfile(run.folder / name, folder / name)
    metrics = CocoMetrics(**json.loads((folder / BEST_FIGURES).read_text(encoding="utf-8")))
    print(f"3/3  drawing {SHOWN} of them")
    predict(Detector(run.folder), find_pictures([str(folder / "data" / "valid")])[:SHOWN], folder / "predictions")
    return Demo(folder, metrics, time.monotonic() - started)
