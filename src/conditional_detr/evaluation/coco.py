"""The COCO figures: one function for training, for `cdetr eval` and for Python."""

import copy
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from conditional_detr.data.annotations import is_crowd
from conditional_detr.data.index import SplitIndex, as_id, check_lists, load_split, match_categories, read_json
from conditional_detr.errors import ConditionalDETRError, DataError, shortened_list
from conditional_detr.factory.build import DetectionModel
from conditional_detr.inference.batching import Model, detect
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.results import rows_of

Result = dict[str, Any]


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's twelve figures and the AP of each class; None where no such object exists.

    AP averages over IoU 0.50…0.95; s, m and l are objects below 32², below 96² and above, in px²; AR*N* is recall with N
    detections an image.
    """

    AP: float | None
    AP50: float | None
    AP75: float | None
    APs: float | None
    APm: float | None
    APl: float | None
    AR1: float | None
    AR10: float | None
    AR100: float | None
    ARs: float | None
    ARm: float | None
    ARl: float | None
    per_class: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """As `metrics.json` has it."""
        return asdict(self)


FIGURES = tuple(f.name for f in fields(CocoMetrics) if f.name != "per_class")


@dataclass(frozen=True)
class CocoResult:
    """COCO's figures and what they are made of.

    Attributes
    ----------
    metrics : the figures
    precision : float [T, R, K, A], −1 where no such object exists: by IoU 0.50…0.95, recall 0, 0.01…1, class in the order
        of `category_ids`, and size: all, small, medium, large
    category_ids : [K]
    """

    metrics: CocoMetrics
    precision: np.ndarray
    category_ids: list[int]


def coco_metrics(ground_truth: dict[str, Any] | str | Path, detections: Sequence[Result]) -> CocoMetrics:
    """COCO's figures for boxes, by faster-coco-eval; equal to pycocotools.

    Parameters
    ----------
    ground_truth : COCO's "images", "annotations", "categories", or the path of such a file. Crowds, images without objects
        and sparse ids are as in COCO; a missing "area" is w·h, a missing "iscrowd" is 0
    detections : dicts of "image_id", "category_id", "bbox" (x, y, w, h in px) and "score"

    Raises
    ------
    DataError : a ground truth that is no COCO, or a detection of an image that it does not list
    """
    return coco_evaluate(ground_truth, detections).metrics


def coco_evaluate(ground_truth: dict[str, Any] | str | Path, detections: Sequence[Result]) -> CocoResult:
    """As `coco_metrics`, with the curves behind the figures."""
    from faster_coco_eval import COCO, COCOeval_faster

    content = read_json(Path(ground_truth)) if isinstance(ground_truth, str | Path) else ground_truth
    truth = _complete(content)
    known = {image["id"] for image in truth["images"]}
    results = [dict(d) | {key: as_id(d.get(key)) for key in ("image_id", "category_id")} for d in detections]
    if strange := [d.get("image_id") for d, r in zip(detections, results, strict=True) if r["image_id"] not in known]:
        raise DataError(f"{len(strange)} detections are of images that the ground truth lacks, e.g. id {strange[0]!r}")
    coco = COCO(truth)
    evaluation = COCOeval_faster(coco, coco.loadRes(results), "bbox", print_function=_silent)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = np.asarray(evaluation.eval["precision"])[..., -1]  # 100 detections an image
    names = {c["id"]: str(c["name"]) for c in truth["categories"]}
    times = Counter(names.values())
    names = {id_: name if times[name] == 1 else f"{name} (id {id_})" for id_, name in names.items()}
    ids = list(evaluation.params.catIds)
    per_class = {names[id_]: mean_precision(precision[:, :, k, 0]) for k, id_ in enumerate(ids)}
    figures = [None if value < 0 else float(value) for value in evaluation.stats[: len(FIGURES)]]
    return CocoResult(CocoMetrics(**dict(zip(FIGURES, figures, strict=True)), per_class=per_class), precision, ids)


def _silent(*_: Any, **__: Any) -> None:
    pass


def mean_precision(precision: np.ndarray) -> float | None:
    """The mean over what exists, an AP; None where nothing does."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None


def _complete(content: dict[str, Any]) -> dict[str, Any]:
    """The ground truth as the evaluator wants it: ids from 1, area and iscrowd given, broken annotations left out."""
    check_lists(content, "the ground truth")
    images, categories = ([row | {"id": as_id(row.get("id"))} for row in content[key]] for key in ("images", "categories"))
    known, classes = ({row["id"] for row in rows} - {None} for rows in (images, categories))
    named = all("name" in row for row in categories)
    if len(known) < len(images) or len(classes) < len(categories) or not named:
        raise DataError(
            "each image and each category of the ground truth must have an integer 'id' of its own, categories also a 'name'"
        )
    annotations: list[dict[str, Any]] = []
    for row in content["annotations"]:
        box, ids = row.get("bbox"), {key: as_id(row.get(key)) for key in ("image_id", "category_id")}
        if ids["image_id"] not in known or not is_box(box):
            continue
        filled = {"area": box[2] * box[3]} | copy.deepcopy(row) | ids
        annotations.append(filled | {"id": len(annotations) + 1, "iscrowd": int(is_crowd(row))})
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def is_box(box: Any) -> bool:
    """Whether it is four finite numbers."""
    return isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(v, int | float) and math.isfinite(v) for v in box)


@dataclass(frozen=True)
class Evaluation:
    """A model's detections on a split, judged.

    Attributes
    ----------
    model, index, split : what was evaluated on what
    detections : COCO results, the 100 best of every image
    coco : their figures and curves
    seconds : of detecting in all images
    skipped : images that could not be used, by their position in the split, and why; they are not in `index`
    """

    model: Model
    index: SplitIndex
    split: str
    detections: list[Result]
    coco: CocoResult
    seconds: float
    skipped: dict[int, str] = field(default_factory=dict)

    @property
    def metrics(self) -> CocoMetrics:
        return self.coco.metrics

    @property
    def note(self) -> str:
        """What a reader of the figures must know of the classes; mostly nothing."""
        model, categories = self.model, self.index.categories
        used = match_categories(model.class_names, model.category_ids, categories, str(self.index.file))
        lacking = [category.name for category in categories if category.id not in used.values()]
        notes = []
        if not {category.name for category in categories} & set(model.class_names):
            notes.append("The model's classes have no names but numbers: they were taken for the data's by their ids.")
        if lacking:
            names = shortened_list(lacking, 5)
            notes.append(f"{len(lacking)} of {len(categories)} classes are unknown to the model and count as AP 0: {names}.")
        return " ".join(notes)


def evaluate(
    source: str | Path | DetectionModel,
    data: str | Path,
    split: str = "valid",
    batch: int = 8,
    device: str = "auto",
) -> CocoMetrics:
    """COCO's figures of a model on a split of a data set.

    Parameters
    ----------
    source : see `Detector`
    data : a COCO folder
    split : "train", "valid" or "test"
    batch : images a batch, at most; moves no figure
    """
    return evaluation_of(source, data, split, batch, device).metrics


def evaluation_of(
    source: str | Path | DetectionModel, data: str | Path, split: str = "valid", batch: int = 8, device: str = "auto"
) -> Evaluation:
    """As `evaluate`, with all that a report shows."""
    model = Detector(source, device=device).model
    index = load_split(data, split)
    started = time.monotonic()
    detections, skipped = detections_of(model, index, batch)
    seconds = time.monotonic() - started
    index = index.without(skipped)
    return Evaluation(model, index, split, detections, coco_evaluate(index.ground_truth(), detections), seconds, skipped)


def detections_of(
    model: Model, index: SplitIndex, batch: int, share: slice = slice(None)
) -> tuple[list[Result], dict[int, str]]:
    """The model's 100 best detections of every image, or of a share, as COCO results with the data set's own ids.

    Returns
    -------
    the results, and the positions of images that cannot be used, with the reason
    """
    category_of = match_categories(model.class_names, model.category_ids, index.categories, str(index.file))
    results: list[Result] = []
    skipped: dict[int, str] = {}
    chosen = range(len(index))[share]

    def leave_out(position: int, error: ConditionalDETRError) -> None:
        skipped[chosen[position]] = str(error)

    for position, rgb, result in detect(model, [index.paths[i] for i in chosen], batch, leave_out):
        try:
            index.check_size(chosen[position], (rgb.shape[-2], rgb.shape[-1]))
        except DataError as error:
            leave_out(position, error)
            continue
        results += coco_results(result, int(index.image_ids[chosen[position]]), category_of)
    return results, skipped


def coco_results(result: dict[str, Tensor], image_id: int, category_of: dict[int, int]) -> list[Result]:
    """`postprocess`'s record of one image as COCO results; classes that the data does not know are left out."""
    return [
        {"image_id": image_id, "category_id": category_of[row.label], "bbox": row.bbox, "score": row.score}
        for row in rows_of(result)
        if row.label in category_of
    ]
