"""Match detections with the ground truth at IoU 0.5, with the same rules as COCO, including crowds."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from conditional_detr.data.index import SplitIndex
from conditional_detr.evaluation.coco import Result

IOU = 0.5
ENOUGH_OBJECTS = 10  # minimum number of objects of a class with its own threshold


@dataclass(frozen=True)
class Matches:
    """Detections in flat arrays, highest score first, each with the object that it matches.

    An unmatched detection inside a crowd of its class counts as neither correct nor wrong. It is left out.

    Attributes
    ----------
    scores : [D]
    labels : [D], class indices: positions in the data set's categories
    boxes_xyxy : [D, 4] px
    images : int [D], positions of the images in the index
    found : int [D], row of the matched object in the index. −1 if no object of that class has an IoU of at least 0.5, or if it
        is matched to a detection with a higher score
    duplicate : bool [D], unmatched detections that have an IoU of at least 0.5 with an object of their class, which is matched
    objects : number of objects in all images
    """

    scores: np.ndarray
    labels: np.ndarray
    boxes_xyxy: np.ndarray
    images: np.ndarray
    found: np.ndarray
    duplicate: np.ndarray
    objects: int

    def by_image(self, conf: float, images: int) -> list[np.ndarray]:
        """For each of `images` images, the rows of its detections with a score of at least `conf`, highest first."""
        kept = np.flatnonzero(self.scores >= conf)
        kept = kept[np.argsort(self.images[kept], kind="stable")]
        return np.split(kept, np.searchsorted(self.images[kept], np.arange(1, images)))

    def only(self, kept: np.ndarray, objects: int) -> "Matches":
        """Select detections with a mask, bool [D], and set the number of objects."""
        arrays = {key: getattr(self, key)[kept] for key in ("scores", "labels", "boxes_xyxy", "images", "found", "duplicate")}
        return Matches(**arrays, objects=objects)


def match(index: SplitIndex, detections: list[Result]) -> Matches:
    """Match COCO results with the objects of a split.

    Within an image and a class, detections are processed from the highest score to the lowest. Each one is matched to the
    unmatched object with the highest IoU, if that is at least 0.5.
    """
    from supervision import box_iou_batch

    order = sorted(detections, key=lambda d: -d["score"])
    label_of = {category.id: label for label, category in enumerate(index.categories)}
    place_of = {int(id_): i for i, id_ in enumerate(index.image_ids)}
    scores = np.array([d["score"] for d in order], dtype=np.float64)
    labels = np.array([label_of[d["category_id"]] for d in order], dtype=np.int64)
    images = np.array([place_of[d["image_id"]] for d in order], dtype=np.int64)
    boxes = np.array([d["bbox"] for d in order], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    found, near = np.full(len(order), -1), np.zeros(len(order), dtype=bool)
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(images.tolist(), labels.tolist(), strict=True)):
        rows_of.setdefault(key, []).append(row)
    for (image, label), rows in rows_of.items():
        truth_boxes, truth_labels = index.objects(image)
        objects = np.flatnonzero(truth_labels == label)
        if not len(objects):
            continue
        overlap = box_iou_batch(truth_boxes[objects].astype(np.float64), boxes[rows])
        near[rows] = overlap.max(0) >= IOU
        for column, row in enumerate(rows):
            best = int(overlap[:, column].argmax())
            if overlap[best, column] >= IOU:
                found[row] = index.first[image] + objects[best]
                overlap[best] = -1.0
    counts = np.ones(len(order), dtype=bool)
    for key, crowds in _crowds(index, label_of).items():
        unmatched = np.array([row for row in rows_of.get(key, []) if found[row] < 0], dtype=int)
        counts[unmatched[_share_inside(boxes[unmatched], crowds).max(1) >= IOU]] = False
    whole = Matches(scores, labels, boxes, images, found, near & (found < 0), len(index.labels))
    return whole.only(counts, len(index.labels))


def _crowds(index: SplitIndex, label_of: dict[Any, int]) -> dict[tuple[int, int], np.ndarray]:
    """Boxes [C, 4] xyxy of crowds, by (position of the image, class index)."""
    found: dict[tuple[int, int], list[list[float]]] = {}
    for position, category, x, y, width, height, _, is_crowd in index.ground_truth_rows.tolist():
        if is_crowd:
            found.setdefault((int(position), label_of[int(category)]), []).append([x, y, x + width, y + height])
    return {key: np.array(boxes, dtype=np.float64) for key, boxes in found.items()}


def _share_inside(boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """Fraction of each box [R, 4] that lies inside each crowd [C, 4]: [R, C]. COCO uses it as the IoU with a crowd."""
    low, high = np.maximum(boxes[:, None, :2], crowds[:, :2]), np.minimum(boxes[:, None, 2:], crowds[:, 2:])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    return np.asarray(np.prod((high - low).clip(0), -1) / np.maximum(area, 1e-12)[:, None])


@dataclass(frozen=True)
class Thresholds:
    """Precision and recall at IoU 0.5 over all classes, for each score threshold in ascending order: [S] each."""

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def at(self, conf: float) -> tuple[float, float]:
        """Precision and recall at a score threshold. Without detections above it, precision is 1 and recall 0."""
        i = int(np.searchsorted(self.scores, conf))
        return (float(self.precision[i]), float(self.recall[i])) if i < len(self.scores) else (1.0, 0.0)

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and recall; 0 if both are 0."""
        return np.asarray(2 * self.precision * self.recall / np.maximum(self.precision + self.recall, 1e-12))

    def best(self) -> int | None:
        """Index of the threshold with the highest F1. None if no detection is correct."""
        return int(self.f1.argmax()) if self.f1.any() else None

    def for_precision(self, wanted: float) -> int | None:
        """Index of the lowest threshold with at least the wanted precision. None if there is no such threshold."""
        enough = np.flatnonzero(self.precision >= wanted)
        return int(enough[0]) if len(enough) else None


def thresholds(matches: Matches) -> Thresholds:
    """Compute precision and recall for each distinct score, used as a threshold."""
    right = np.cumsum(matches.found >= 0)
    kept = np.arange(1, len(right) + 1)
    last = np.flatnonzero(np.diff(matches.scores, append=-np.inf) != 0)[::-1]  # detections with equal scores are kept together
    return Thresholds(matches.scores[last], right[last] / kept[last], right[last] / max(1, matches.objects))


def thresholds_by_class(index: SplitIndex, matches: Matches) -> tuple[float, list[float]] | None:
    """The score threshold with the highest F1, over all classes and for each class. None if no detection is correct.

    A class with fewer than `ENOUGH_OBJECTS` objects, or without a correct detection, gets the threshold of all classes.
    """
    together = thresholds(matches)
    best = together.best()
    if best is None:
        return None
    usual, scores = float(together.scores[best]), []
    for label in range(len(index.categories)):
        objects = int((index.labels == label).sum())
        curves = thresholds(matches.only(matches.labels == label, objects))
        position = curves.best() if objects >= ENOUGH_OBJECTS else None
        scores.append(usual if position is None else float(curves.scores[position]))
    return usual, scores


def confusion(index: SplitIndex, matches: Matches, conf: float) -> np.ndarray:
    """Confusion matrix of counts, int [K + 1, K + 1]: true class by predicted class. The last index is the background.

    It is computed by supervision. Here a detection may be matched with an object of another class.
    """
    import supervision as sv

    predictions, targets = [], []
    for i, rows in enumerate(matches.by_image(conf, len(index))):
        found = matches.boxes_xyxy[rows].astype(np.float32)
        predictions.append(sv.Detections(found, confidence=matches.scores[rows], class_id=matches.labels[rows]))
        boxes, labels = index.objects(i)
        targets.append(sv.Detections(boxes, class_id=labels))
    names = [category.name for category in index.categories]
    counted = sv.ConfusionMatrix.from_detections(predictions, targets, names, conf_threshold=0.0, iou_threshold=IOU)
    return np.asarray(counted.matrix)
