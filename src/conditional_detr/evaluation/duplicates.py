"""Duplicate boxes of one object, and whether suppressing them raises the F1 score.

A DETR has no non-maximum suppression: each object is matched with one query in training. A model that is not fully trained
still finds some objects twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conditional_detr.data.index import SplitIndex, match_categories
from conditional_detr.evaluation.coco import Evaluation, Result
from conditional_detr.evaluation.greedy_matching import Matches, match
from conditional_detr.inference.results import DEFAULT_CONF, not_suppressed

NMS_IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)  # that are tried
MIN_GAIN = 0.001  # in F1, for which boxes are suppressed


@dataclass(frozen=True)
class Duplicates:
    """Duplicates among the detections above the score thresholds, at IoU 0.5.

    Attributes
    ----------
    count : number of detections of an object that a detection with a higher score has found already
    objects : number of objects
    f1 : F1 score of all classes together
    nms_iou : IoU of the suppression with the highest F1 score; None if none raises it by at least `MIN_GAIN`
    f1_with_nms : F1 score with the best suppression
    """

    count: int
    objects: int
    f1: float
    nms_iou: float | None
    f1_with_nms: float

    @property
    def per_100_objects(self) -> float:
        return 100 * self.count / max(1, self.objects)


def find_duplicates(index: SplitIndex, detections: Sequence[Result], thresholds: Sequence[float]) -> Duplicates:
    """Count duplicates and try suppression within each class.

    Parameters
    ----------
    detections : COCO results
    thresholds : one score threshold per category of the index
    """
    score_of = {category.id: score for category, score in zip(index.categories, thresholds, strict=True)}
    kept = [row for row in detections if row["score"] >= score_of[row["category_id"]]]
    matches = match(index, kept)
    tried = {iou: f1_score(match(index, suppressed(kept, iou))) for iou in NMS_IOUS}
    best = max(NMS_IOUS, key=lambda iou: (tried[iou], iou))
    f1 = f1_score(matches)
    is_better = tried[best] >= f1 + MIN_GAIN
    return Duplicates(int(matches.duplicate.sum()), matches.objects, f1, best if is_better else None, tried[best])


def duplicates_of(evaluation: Evaluation) -> Duplicates:
    """The duplicates of an evaluation, at the score thresholds of its model."""
    model, index = evaluation.model, evaluation.index
    category_of = match_categories(model.class_names, model.category_ids, index.categories, str(index.file))
    of_class = dict(enumerate(model.thresholds or [DEFAULT_CONF] * len(model.class_names)))
    score_of = {category: of_class[label] for label, category in category_of.items()}
    return find_duplicates(
        index, evaluation.detections, [score_of.get(category.id, DEFAULT_CONF) for category in index.categories]
    )


def f1_score(matches: Matches) -> float:
    """F1 score of all detections."""
    right = int((matches.found >= 0).sum())
    return 2 * right / max(1, len(matches.found) + matches.objects)


def suppressed(detections: Sequence[Result], iou: float) -> list[Result]:
    """COCO results without those that non-maximum suppression removes, image by image and within each class."""
    of_image: dict[int, list[Result]] = {}
    for row in detections:
        of_image.setdefault(row["image_id"], []).append(row)
    kept = []
    for rows in of_image.values():
        boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels, scores = (np.array([row[key] for row in rows]) for key in ("category_id", "score"))
        kept += [row for row, keep in zip(rows, not_suppressed(boxes, labels, scores, iou), strict=True) if keep]
    return kept
