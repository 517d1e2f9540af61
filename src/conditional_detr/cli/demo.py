"""`cdetr demo`: make the digits data set, train, evaluate and predict, without a network."""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated

from conditional_detr.cli.parameters import option
from conditional_detr.cli.printing import print_metrics, print_next, print_text
from conditional_detr.errors import RunError
from conditional_detr.storage.run_files import BEST_FIGURES, REPORT

SCENE_PX = 128
TRAIN_SCENES, VALID_SCENES, SHOWN = 2200, 300, 12
MINUTES = 3.0
# All images have the same size and are seen only once or twice, so the usual augmentation would only make training harder.
RECIPE = {"crop": 0.0, "scales": (1.0, 1.0), "color_jitter": 0.0}


def demo(
    *,
    output: Annotated[
        Path, option("Output", "New folder for the data set, the run, the metrics and the images.", "DIR")
    ] = Path("demo"),
) -> None:
    """Train on handwritten digits, evaluate and predict. Takes a few minutes and needs no network."""
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise RunError(f"{output} is not empty: give a new folder with --output")
    from conditional_detr.data.digits import make_digits
    from conditional_detr.evaluation.coco import CocoMetrics
    from conditional_detr.inference.detector import Detector
    from conditional_detr.inference.predict import find_images, predict
    from conditional_detr.training.trainer import train

    started = time.monotonic()
    print_text(
        f"1/3  Making {TRAIN_SCENES} training and {VALID_SCENES} validation images: handwritten digits over photographs", "bold"
    )
    make_digits(output / "data", TRAIN_SCENES, VALID_SCENES, SCENE_PX)
    print_text(
        f"2/3  Training conditional-detr-tiny for {MINUTES:g} minutes and evaluating it on the validation images", "bold"
    )
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
    print_text(f"3/3  Predicting {SHOWN} validation images", "bold")
    predict(Detector(run.folder), find_images([str(output / "data" / "valid")])[:SHOWN], output / "predictions")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    figures = json.loads((output / BEST_FIGURES).read_text(encoding="utf-8"))
    intervals = figures.pop("intervals")
    print_metrics(CocoMetrics(**figures), intervals)
    print_text(f"Done in {minutes} min {seconds} s. Open {output}/report.html and the images in {output}/predictions/", "bold")
    print_next("train on your own images", "cdetr", "train", "--data", "FOLDER", "--minutes", "20")
