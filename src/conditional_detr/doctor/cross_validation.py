"""Cross-validation: train on all images but those of a fold, evaluate on these, for each fold in turn."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from conditional_detr.data.formats.coco_files import ALL
from conditional_detr.data.index import SplitIndex, load_split
from conditional_detr.doctor.clean_copy import check_is_new, write_copy
from conditional_detr.doctor.examine import as_written
from conditional_detr.doctor.label_errors import LabelError, label_errors
from conditional_detr.doctor.label_page import write_label_page
from conditional_detr.doctor.new_splits import folds_of, merged
from conditional_detr.errors import RunError
from conditional_detr.evaluation.coco import CocoResult, Result, coco_evaluate
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.storage.json import read_json_object
from conditional_detr.storage.run_files import BEST_FIGURES, CONFIG, PREDICTIONS
from conditional_detr.storage.writing import writing
from conditional_detr.training.setup.config_file import training_options
from conditional_detr.training.trainer import train

DATA, EVERYTHING = "data", "all"  # folders with the data of the folds, and with all images
ORIGINALS = "originals.json"  # image ids and the files of the data set
LABEL_ERRORS, LABEL_PAGE = "label_errors.json", "label_errors.html"
LEVEL = 0.95
METRICS = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class CrossValidation:
    """Result of a cross-validation.

    Attributes
    ----------
    folder : folder with a run per fold and the results
    folds : for each metric its value in each fold
    out_of_fold : metrics of the detections in all images, each by the model that was not trained on it
    errors : likely label errors, the most suspicious first
    """

    folder: Path
    folds: dict[str, list[float | None]]
    out_of_fold: CocoResult
    errors: list[LabelError]

    def mean(self, metric: str) -> tuple[float, float, float] | None:
        """Mean over the folds and its 95 % interval (Student's t); None if a fold has no such metric."""
        values = [value for value in self.folds[metric] if value is not None]
        if len(values) < len(self.folds[metric]):
            return None
        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
        mean = float(np.mean(values))
        return mean, max(0.0, mean - half), min(1.0, mean + half)

    def to_dict(self) -> dict[str, Any]:
        """The result in the form of `metrics.json`."""
        means = {name: self.mean(name) for name in METRICS}
        return {
            "folds": {
                name: {"values": self.folds[name], "mean": found and found[0], "interval": found and list(found[1:])}
                for name, found in means.items()
            },
            "out_of_fold": self.out_of_fold.to_dict(),
        }


def cross_validate(
    data: str | Path,
    folds: int = 5,
    output: str | Path = "runs/folds",
    resume: bool = False,
    say: Callable[[str], None] = print,
    **options: Any,
) -> CrossValidation:
    """Train one model per fold, and evaluate each on the images that it was not trained on.

    All splits of the data set but `test` are merged and divided. Images that look the same stay in one fold, and each fold has
    about the same classes. Settings that are chosen from the data are chosen once, for the first fold.

    The results are written to `output`: a run folder per fold, `metrics.json`, `predictions.json` (COCO results in all images),
    `label_errors.json` and `label_errors.html`.

    Parameters
    ----------
    data : data set in any supported format
    folds : number of folds, at least 2
    output : new folder; with `resume` the folder of a cross-validation that was stopped
    resume : continue it
    say : function that receives lines of progress
    options : as in `train`; `minutes` and `epochs` are those of each fold

    Raises
    ------
    as `train`
    """
    folder = Path(output)
    seed = int(options.get("seed") or 0)
    if not (resume and (folder / DATA).is_dir()):
        _write_data(data, folds, seed, folder / DATA)
    places = sorted((path for path in (folder / DATA).glob("fold-*")), key=lambda path: int(path.name.rpartition("-")[2]))
    if len(places) != folds:
        raise RunError(f"{folder} was started with {len(places)} folds, not {folds}")
    given = options
    for number, place in enumerate(places, 1):
        say(f"fold {number} of {folds}")
        train(**given | {"data": place, "output": folder / place.name, "resume": resume})
        if number == 1:  # the other folds use what was chosen from the data of the first one
            given = training_options(folder / place.name / CONFIG, [], {}) | {"quiet": options.get("quiet", False)}
    index = load_split(folder / DATA / EVERYTHING, ALL)
    result = _collected(folder, [folder / place.name for place in places], index)
    _write(folder / BEST_FIGURES, result.to_dict(), 1)
    originals = dict(json.loads((folder / DATA / ORIGINALS).read_text(encoding="utf-8")))
    _write(folder / LABEL_ERRORS, [error.to_dict(index, originals) for error in result.errors], 1)
    write_label_page(index, result.errors, folder / LABEL_PAGE, str(data), result.out_of_fold.metrics.AP50)
    return result


def _collected(folder: Path, runs: list[Path], index: SplitIndex) -> CrossValidation:
    """Join the results of all runs, and write the detections."""
    metrics = [read_json_object(run / BEST_FIGURES, RunError) for run in runs]
    detections = [row for run in runs for row in _detections(run / PREDICTIONS)]
    _write(folder / PREDICTIONS, detections, None)
    number_of = dict(zip(index.written_ids, index.image_ids.tolist(), strict=True))
    rows = [row | {"image_id": number_of[row["image_id"]]} for row in detections]
    values = {name: [each[name] for each in metrics] for name in METRICS}
    return CrossValidation(folder, values, coco_evaluate(index.ground_truth(), rows), label_errors(index, rows))


def _detections(file: Path) -> list[Result]:
    try:
        return list(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}. Delete its run folder and continue with --resume") from None


def _write(file: Path, content: Any, indent: int | None) -> None:
    with writing(file, RunError):
        file.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")


def _write_data(data: str | Path, folds: int, seed: int, output: Path) -> None:
    """Write a data set per fold, and one with all images. Images are linked, not copied, where the file system allows it."""
    check_is_new(output)
    splits, _ = as_written(data)
    splits = {name: split for name, split in splits.items() if name != "test"}
    parts = folds_of(splits, folds, seed)
    whole = merged(splits)
    originals = [[image["written_id"], str(image["path"])] for image in whole.clean.images]
    with (
        writing(output, RunError),
        atomic_folder(output) as new,
    ):  # a stopped one leaves nothing that --resume could take for whole
        write_copy({ALL: whole}, [], new / EVERYTHING, _link)
        for k, part in enumerate(parts, 1):
            write_copy(part, [], new / f"fold-{k}", _link)
        _write(new / ORIGINALS, originals, None)


def _link(source: str, target: Path) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
