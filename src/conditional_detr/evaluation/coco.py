"""Compute COCO metrics. Training, `cdetr eval` and the Python interface all use this module."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from conditional_detr.data.annotations import as_id, image_key, image_numbers, is_crowd
from conditional_detr.data.index import SplitIndex, check_lists, load_split, match_categories, read_json
from conditional_detr.data.splits.summary import Summary
from conditional_detr.data.splits.together import spelled_otherwise
from conditional_detr.errors import ConditionalDETRError, DataError, shortened_list
from conditional_detr.evaluation.bootstrap import ClassMatches, intervals, matches_of
from conditional_detr.factory.build import DetectionModel
from conditional_detr.inference.batching import Model, detect
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.progress import Track, untracked
from conditional_detr.inference.results import rows_of
from conditional_detr.inference.tiles import Tiling

Result = dict[str, Any]


@dataclass(frozen=True)
class CocoMetrics:
    """The twelve COCO metrics, and the AP of each class. A metric is None if the data has no such objects.

    AP is averaged over IoU thresholds 0.50, 0.55, …, 0.95. The suffixes s, m and l stand for small, medium and large objects,
    with areas below 32², between 32² and 96², and above 96² px². AR*N* is the recall with at most N detections per image.
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
        """The metrics as a dict, in the form of `metrics.json`."""
        return asdict(self)


FIGURE_MEANINGS = {
    "AP": "IoU 0.50–0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects",
    "APm": "medium objects",
    "APl": "large objects",
    "AR1": "1 detection per image",
    "AR10": "10 detections",
    "AR100": "100 detections",
    "ARs": "small objects",
    "ARm": "medium objects",
    "ARl": "large objects",
}
FIGURES = tuple(f.name for f in fields(CocoMetrics) if f.name != "per_class")


@dataclass(frozen=True)
class CocoResult:
    """COCO metrics, the precision values that they are computed from, and their intervals.

    Attributes
    ----------
    metrics : the metrics
    precision : float [T, R, K, A] by IoU threshold (0.50, 0.55, …, 0.95), recall (0, 0.01, …, 1), class (in the order of
        `category_ids`) and object size (all, small, medium, large); −1 if there are no such objects
    category_ids : [K]
    matched : computes `matches`
    """

    metrics: CocoMetrics
    precision: np.ndarray
    category_ids: list[int]
    matched: Callable[[], list[ClassMatches]] = field(repr=False)

    @cached_property
    def matches(self) -> list[ClassMatches]:
        """For each class its detections, and whether they match an object."""
        return self.matched()

    @cached_property
    def intervals(self) -> dict[str, list[float] | None]:
        """95 % intervals of AP and AP50, from a bootstrap over the images. None if there are no objects."""
        return intervals(self.matches)

    def to_dict(self) -> dict[str, Any]:
        """Metrics and intervals as a dict, in the form of `metrics.json`."""
        return self.metrics.to_dict() | {"intervals": self.intervals}


def coco_metrics(ground_truth: dict[str, Any] | str | Path, detections: Sequence[Result]) -> CocoMetrics:
    """Compute COCO metrics of boxes with hotcoco. Results are equal to those of pycocotools.

    Parameters
    ----------
    ground_truth : dict with COCO's "images", "annotations" and "categories", or the path of such a file. Crowds, images without
        objects and non-contiguous ids are supported. A missing "area" is w·h, a missing "iscrowd" is 0. If an image lists
        "labelled_category_ids", detections of other categories in it are ignored, as LVIS does
    detections : dicts of "image_id", "category_id", "bbox" (x, y, w, h in px) and "score"

    Raises
    ------
    DataError : the ground truth is not in COCO format, or a detection belongs to an image that it does not list
    """
    return coco_evaluate(ground_truth, detections).metrics


def coco_evaluate(ground_truth: dict[str, Any] | str | Path, detections: Sequence[Result]) -> CocoResult:
    """Like `coco_metrics`, with the precision values behind the metrics and their intervals."""
    from hotcoco import COCO, COCOeval

    content = read_json(Path(ground_truth)) if isinstance(ground_truth, str | Path) else ground_truth
    truth, number_of, labelled = _complete(content)
    ids = sorted(id_ for row in content["categories"] if (id_ := as_id(row["id"])) is not None)
    class_of = {id_: k for k, id_ in enumerate(ids)}
    owners = [number_of.get(image_key(row.get("image_id"))) for row in detections]
    if strange := [row.get("image_id") for row, owner in zip(detections, owners, strict=True) if owner is None]:
        raise DataError(
            f"{len(strange)} detections belong to images that the ground truth does not list, e.g. id {strange[0]!r}"
        )
    results = [
        [owner, *row["bbox"], row["score"], class_of[id_]]
        for row, owner in zip(detections, owners, strict=True)
        if (id_ := as_id(row.get("category_id"))) in class_of and id_ in labelled.get(owner, class_of)
    ]
    coco = COCO(truth)
    found = coco.load_res(np.array(results, dtype=np.float64).reshape(-1, 7))
    evaluation = COCOeval(coco, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summary_lines()  # computes the metrics; `summarize` would print them
    figures = evaluation.get_results()
    precision = np.asarray((evaluation.eval or {})["precision"])[..., -1]  # with at most 100 detections per image
    names = {as_id(row["id"]): str(row["name"]) for row in content["categories"]}
    times = Counter(names.values())
    names = {id_: name if times[name] == 1 else f"{name} (id {id_})" for id_, name in names.items()}
    per_class = {names[id_]: mean_precision(precision[:, :, k, 0]) for k, id_ in enumerate(ids)}
    metrics = {name: None if figures[name] < 0 else float(figures[name]) for name in FIGURES}
    matched = partial(matches_of, coco, found, [row["id"] for row in truth["images"]], len(ids))
    return CocoResult(CocoMetrics(**metrics, per_class=per_class), precision, ids, matched)


def mean_precision(precision: np.ndarray) -> float | None:
    """Mean of the precision values that exist, which is an AP. None if there are none."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None


def _complete(
    content: dict[str, Any],
) -> tuple[dict[str, Any], dict[int | str | None, int | None], dict[int | None, set[int | None]]]:
    """Prepare the ground truth for the evaluator: categories numbered from 0, annotations from 1, area and iscrowd set.

    Annotations that are broken, or whose category is not labelled in their image, are removed. Also returns the number that
    stands for each image id, which may be a text, and the categories that are labelled, see `_labelled_categories`.
    """
    check_lists(content, "the ground truth")
    number_of = image_numbers(image_key(row.get("id")) for row in content["images"])
    images = [number_of[image_key(row.get("id"))] for row in content["images"]]
    categories = [as_id(row.get("id")) for row in content["categories"]]
    known, classes = (set(ids) - {None} for ids in (images, categories))
    named = all("name" in row for row in content["categories"])
    if len(known) < len(images) or len(classes) < len(categories) or not named:
        raise DataError(
            "each image and each category of the ground truth must have a unique 'id' (an integer for categories), "
            "categories also a 'name'"
        )
    class_of = {id_: k for k, id_ in enumerate(sorted(id_ for id_ in classes if id_ is not None))}
    labelled = _labelled_categories(content, number_of)
    annotations: list[dict[str, Any]] = []
    for row in content["annotations"]:
        box, image, label = row.get("bbox"), number_of.get(image_key(row.get("image_id"))), as_id(row.get("category_id"))
        if image is None or label not in class_of or not is_box(box) or label not in labelled.get(image, class_of):
            continue
        annotations.append(
            {
                "id": len(annotations) + 1, "image_id": image, "category_id": class_of[label], "bbox": list(box),
                "area": row.get("area", box[2] * box[3]), "iscrowd": int(is_crowd(row)),
            }
        )  # fmt: skip
    truth = {
        "images": [{"id": id_} for id_ in images],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(id_)} for id_, k in class_of.items()],
    }
    return truth, number_of, labelled


def _labelled_categories(
    content: dict[str, Any], number_of: dict[int | str | None, int | None]
) -> dict[int | None, set[int | None]]:
    """The labelled categories of each image that lists them, by the number of the image."""
    labelled = {}
    for row in content["images"]:
        ids = row.get("labelled_category_ids")
        if ids is not None and not isinstance(ids, list):
            raise DataError(f"labelled_category_ids of the image {row['id']!r} must be a list of category ids, not {ids!r:.80}")
        if ids is not None:
            labelled[number_of[image_key(row["id"])]] = {as_id(id_) for id_ in ids}
    return labelled


def is_box(box: Any) -> bool:
    """Whether a value is a list of four finite numbers."""
    return isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(v, int | float) and math.isfinite(v) for v in box)


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of a model on a split.

    Attributes
    ----------
    model, index, split : the model, the images and boxes it was evaluated on, and the name of the split
    detections : COCO results, the 100 with the highest score per image
    coco : their metrics and precision values
    seconds : time for the detection in all images
    skipped : for each image that could not be used, its position in the split and the reason; they are not in `index`
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
    def written_detections(self) -> list[Result]:
        """The detections with the image ids as the data set has them, which may be texts."""
        written = dict(zip(self.index.image_ids.tolist(), self.index.written_ids, strict=True))
        return [row | {"image_id": written[row["image_id"]]} for row in self.detections]

    @property
    def summary(self) -> Summary:
        """Counts of the evaluated images and boxes."""
        return self.index.summary

    @property
    def note(self) -> str:
        """Remarks on the classes that are needed to understand the metrics; usually empty."""
        model, categories = self.model, self.index.categories
        used = match_categories(model.class_names, model.category_ids, categories, str(self.index.file))
        lacking = [category.name for category in categories if category.id not in used.values()]
        notes = []
        if not {category.name for category in categories} & set(model.class_names):
            notes.append(
                "The model's class names are only numbers, so its classes were matched to those of the data set by id."
            )
        if lacking:
            twins = spelled_otherwise(lacking, model.class_names)
            shown = [f"{name} (is it {twins[name]!r}?)" if name in twins else name for name in lacking]
            names = shortened_list(shown, 5)
            notes.append(f"{len(lacking)} of {len(categories)} classes are unknown to the model and count as AP 0: {names}.")
        if partly := self.summary.partly_labelled:
            notes.append(
                f"In {partly} of {len(self.index)} images only some classes are labelled. Detections of the other classes are "
                "neither shown nor counted there, and confusions with them are not measured."
            )
        return " ".join(notes)


def evaluate(  # noqa: PLR0913 · what the command offers
    source: str | Path | DetectionModel,
    data: str | Path,
    split: str = "valid",
    batch: int = 8,
    device: str = "auto",
    tile: int | None = None,
    overlap: float | None = None,
) -> CocoMetrics:
    """Compute the COCO metrics of a model on a split of a data set.

    Parameters
    ----------
    source : see `Detector`
    data : folder of the data set
    split : "train", "valid" or "test"
    batch : largest batch size; the metrics do not depend on it
    device, tile, overlap : see `Detector`
    """
    return evaluation_of(Detector(source, device=device, tile=tile, overlap=overlap), data, split, batch).metrics


def evaluation_of(
    detector: Detector, data: str | Path, split: str = "valid", batch: int = 8, track: Track = untracked
) -> Evaluation:
    """Like `evaluate`, but returns everything that a report needs. `track` shows the progress."""
    model = detector.model
    index = load_split(data, split)
    started = time.monotonic()
    detections, skipped = detections_of(model, index, batch, track=track, tiling=detector.tiling)
    seconds = time.monotonic() - started
    index = index.without(skipped)
    return Evaluation(model, index, split, detections, coco_evaluate(index.ground_truth(), detections), seconds, skipped)


def detections_of(
    model: Model,
    index: SplitIndex,
    batch: int,
    share: slice = slice(None),
    track: Track = untracked,
    tiling: Tiling | None = None,
) -> tuple[list[Result], dict[int, str]]:
    """Detect objects in the images of a split, or in a part of them: at most 100 per image, with the highest scores.

    Parameters
    ----------
    share : slice of the positions in the index; by default all images
    track : shows the progress
    tiling : how large images are cut; None = as the model's preprocessing says

    Returns
    -------
    COCO results with the ids of the data set, and for each image that cannot be used its position and the reason. Detections of
    classes that are not labelled in their image are left out
    """
    category_of = match_categories(model.class_names, model.category_ids, index.categories, str(index.file))
    results: list[Result] = []
    skipped: dict[int, str] = {}
    chosen = range(len(index))[share]

    def leave_out(position: int, error: ConditionalDETRError) -> None:
        skipped[chosen[position]] = str(error)

    detected = detect(model, [index.paths[i] for i in chosen], batch, leave_out, tiling)
    for position, rgb, result in track(detected, len(chosen), "evaluating"):
        try:
            index.check_size(chosen[position], (rgb.shape[0], rgb.shape[1]))
        except DataError as error:
            leave_out(position, error)
            continue
        known = category_of if index.labelled is None else _labelled_in(index, chosen[position], category_of)
        results += coco_results(result, int(index.image_ids[chosen[position]]), known)
    return results, skipped


def _labelled_in(index: SplitIndex, image: int, category_of: dict[int, int]) -> dict[int, int]:
    """Select the classes that are labelled in an image. Whether a detection of another class is right cannot be known."""
    assert index.labelled is not None
    known = {category.id for category, is_known in zip(index.categories, index.labelled[image], strict=True) if is_known}
    return {label: category for label, category in category_of.items() if category in known}


def coco_results(result: dict[str, np.ndarray], image_id: int, category_of: dict[int, int]) -> list[Result]:
    """Convert the detections of one image to COCO results. Classes that the data set does not have are left out."""
    return [
        {"image_id": image_id, "category_id": category_of[row.label], "bbox": row.bbox, "score": row.score}
        for row in rows_of(result)
        if row.label in category_of
    ]
