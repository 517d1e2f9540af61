"""Write the report of a run or an evaluation: one HTML file that works offline, on a phone and in print."""

import io
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conditional_detr.data.index import SplitIndex, match_categories
from conditional_detr.evaluation import plots
from conditional_detr.evaluation.coco import FIGURE_MEANINGS, Evaluation, mean_precision
from conditional_detr.evaluation.duplicates import duplicates_of
from conditional_detr.evaluation.error_analysis import ImageErrors, image_errors, most_right, most_wrong, truth_and_prediction
from conditional_detr.evaluation.greedy_matching import Matches, Thresholds, confusion, match, thresholds
from conditional_detr.evaluation.pages import duration, embedded, versions, write_page
from conditional_detr.inference.results import DEFAULT_CONF

WORST, GOOD = 8, 4  # number of images shown
LONGEST_SIDE = 640  # longer side of an image in the report, px
SURE_PRECISION = 0.9  # precision of the second threshold that the report recommends
HARDLY = 0.1  # below this F1 the report says that the model needs more training
MAX_CLASSES = 20  # maximum number of classes in the confusion matrix
LEARNING = {  # plots of a run: columns of metrics.jsonl with the labels of their lines, and the caption
    "loss": ({"loss": "training loss"}, "Weighted sum over all decoder layers and auxiliary losses."),
    "loss terms": (
        {"loss_ce": "class", "loss_bbox": "box, L1", "loss_giou": "box, GIoU"},
        "Unweighted losses of the last decoder layer.",
    ),
    "AP": ({"AP": "AP", "AP50": "AP50", "AP75": "AP75"}, "On the validation images, after each evaluated epoch."),
}
COLUMNS = ("epoch", "loss", "loss_ce", "loss_bbox", "loss_giou", "AP", "AP50", "AP75", "lr", "seconds")


def write_report(
    evaluation: Evaluation,
    file: Path,
    title: str,
    facts: dict[str, str],
    history: list[dict[str, Any]] | None = None,
    settings: str = "",
) -> None:
    """Write the report.

    Parameters
    ----------
    evaluation : metrics and detections
    file : output file
    title : title of the page
    facts : rows of the table at the top, title → text; versions and date are added
    history : for a run, the rows of its `metrics.jsonl`
    settings : for a run, the content of its `config.toml`

    Raises
    ------
    RunError : the file cannot be written
    """
    index, judgement = evaluation.index, evaluation.coco
    matches = match(index, evaluation.detections)
    curves = thresholds(matches)
    best = curves.best()
    conf = DEFAULT_CONF if best is None else typed(float(curves.scores[best]))
    names = [category.name for category in index.categories]
    counts, shown, note = _most_confused(confusion(index, matches, conf), names)
    found = image_errors(index, matches, conf)
    worst = most_wrong(found, WORST)
    best_ones = [errors for errors in most_right(found, WORST + GOOD) if errors not in worst][:GOOD]
    rows = history or []
    aps = [-1.0 if row["AP"] is None else row["AP"] for row in rows]
    content = {
        "title": title,
        "metrics": judgement.metrics.to_dict(),
        "intervals": judgement.intervals,
        "images": len(index),
        "split": evaluation.split,
        "best_epoch": rows[int(np.argmax(aps))]["epoch"] if rows else None,
        "facts": facts | {"versions": versions(), "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")},
        "figures": FIGURE_MEANINGS,
        "history": rows,
        "columns": [name for name in COLUMNS if rows and name in rows[-1]],
        "curves": [_learning(rows, what) for what in LEARNING] if rows else [],
        "classes": _classes(evaluation),
        "has_thresholds": bool(evaluation.model.thresholds),
        "advice": _advice(curves, None if best is None else conf, matches.objects),
        "duplicates": _duplicates(evaluation),
        "is_marked": best is not None,
        "scores": embedded(plots.score_curves(curves, None if best is None else conf)),
        "precision_recall": embedded(plots.precision_recall(judgement.precision, names)),
        "precision_recall_caption": "One line per class at IoU 0.5. Black: the mean over classes, at IoU 0.5 and 0.75.",
        "conf": conf,
        "confusion": embedded(plots.confusion_matrix(counts, shown)),
        "confusion_note": note,
        "worst": [_pair(index, matches, conf, errors) for errors in worst],
        "good": [_pair(index, matches, conf, errors) for errors in best_ones],
        "settings": settings,
    }
    write_page(file, "report", content)


def facts(evaluation: Evaluation, source: str, data: str) -> dict[str, str]:
    """Model, data and time of an evaluation, for the table at the top of its report."""
    index, model, seconds = evaluation.index, evaluation.model, evaluation.seconds
    rate = f"{len(index) / seconds:.1f} images/s" if seconds else "at once"
    return {
        "model": f"{source}, {model.summary}, shorter side {model.preprocessor.imgsz} px",
        "data": f"{data}, split {evaluation.split}: {len(index)} images, {len(index.labels)} objects, "
        f"{len(index.categories)} classes",
        **({"note": evaluation.note} if evaluation.note else {}),
        "time": f"{duration(seconds)}, {rate}, on {str(model.device).split(':')[0]}",
    }


def _learning(rows: list[dict[str, Any]], what: str) -> dict[str, str]:
    lines, caption = LEARNING[what]
    bands = [plots.Band(name, [[row.get(column) for row in rows]]) for column, name in lines.items()]
    return {"svg": embedded(plots.learning_curves(bands, what)), "alt": f"{what} by epoch", "caption": caption}


def _classes(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row per class: number of objects, AP, AP50, and AP by object size."""
    judgement, index, model = evaluation.coco, evaluation.index, evaluation.model
    category_of = match_categories(model.class_names, model.category_ids, index.categories, str(index.file))
    thresholds_of = {category_of[k]: score for k, score in enumerate(model.thresholds or []) if k in category_of}
    objects = np.bincount(index.labels, minlength=len(index.categories))
    rows = []
    for label, category in enumerate(index.categories):
        precision = judgement.precision[:, :, judgement.category_ids.index(category.id)]
        all_, small, medium, large = (mean_precision(precision[..., area]) for area in range(4))
        rows.append(
            {
                "name": category.name, "objects": int(objects[label]), "AP": all_, "AP50": mean_precision(precision[0, :, 0]),
                "small": small, "medium": medium, "large": large, "threshold": thresholds_of.get(category.id),
            }
        )  # fmt: skip
    return rows


def typed(score: float) -> float:
    """Round a score down to two digits. Rounding down keeps all detections of that score: 0.4178 → 0.41, 0.01519 → 0.015."""
    digits = 2 if score >= 0.1 else 1 - math.floor(math.log10(max(score, 1e-9)))
    nearest = round(score, digits)
    return nearest if nearest <= score else round(nearest - float(10**-digits), digits)


def _advice(curves: Thresholds, best: float | None, objects: int) -> list[str]:
    """Sentences that recommend a score threshold. `best` is the threshold with the highest F1."""
    if not objects:
        return ["These images have no objects, so no threshold can be recommended."]
    if best is None:
        return ["No object was detected at IoU 0.5 at any score, so no threshold can be recommended."]

    def at(conf: float) -> str:
        precision, recall = curves.at(conf)
        return f"--conf {conf:g} (precision {precision:.2f}, recall {recall:.2f})"

    sentences = [f"The highest F1 is {curves.f1.max():.2f}, at {at(best)}."]
    if curves.f1.max() < HARDLY:
        return [*sentences, "The model detects almost nothing yet. Train it longer before you choose a threshold."]
    sure = curves.for_precision(SURE_PRECISION)
    if sure is None:
        sentences.append("No score threshold reaches a precision of 0.9.")
    elif curves.recall[sure] < 0.01:
        sentences.append("90 % of the detections are correct only where less than 1 % of the objects is found.")
    else:
        sentences.append(f"From {at(typed(float(curves.scores[sure])))} on, about 90 % of the detections are correct.")
    return sentences


def _duplicates(evaluation: Evaluation) -> str:
    """A sentence about objects that are found more than once."""
    found, used = duplicates_of(evaluation), evaluation.model.nms_iou
    if not found.objects:
        return ""
    text = (
        f"Duplicates: {found.per_100_objects:.1f} per 100 objects. These are second detections of an object that a detection "
        "with a higher score has found already. "
    )
    if used is not None:
        return (
            f"{text}Prediction suppresses them above IoU {used:g}, because this raised the F1 score on the validation split. "
            "This page counts all detections."
        )
    if found.nms_iou is None:
        return f"{text}Suppressing overlapping boxes does not raise the F1 score, so prediction does not do it."
    return (
        f"{text}Suppression at IoU {found.nms_iou:g} would raise the F1 score from {found.f1:.3f} to {found.f1_with_nms:.3f}."
    )


def _most_confused(counts: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str], str]:
    """The confusion matrix, its names, and a note. With many classes, only the most confused ones are kept."""
    shown = np.arange(len(names))
    note = ""
    if len(names) > MAX_CLASSES:
        between = counts[:-1, :-1] - np.diag(counts.diagonal()[:-1])
        shown = np.sort(np.argsort(-(between.sum(0) + between.sum(1)), kind="stable")[:MAX_CLASSES])
        note = f" Only the {MAX_CLASSES} most confused of {len(names)} classes are shown."
    rows = [*shown, len(names)]
    return counts[np.ix_(rows, rows)], [*(names[k] for k in shown), "no object"], note


def _pair(index: SplitIndex, matches: Matches, conf: float, errors: ImageErrors) -> dict[str, Any]:
    truth, prediction = truth_and_prediction(index, matches, conf, errors.image)
    return {
        "name": Path(index.paths[errors.image]).name,
        "truth": embedded(jpeg(truth)),
        "prediction": embedded(jpeg(prediction)),
        "right": errors.right,
        "wrong": errors.wrong,
        "missed": errors.missed,
    }


def jpeg(rgb: np.ndarray) -> bytes:
    """Encode an image for a page."""
    image = Image.fromarray(rgb)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return file.getvalue()
