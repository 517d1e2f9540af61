"""Which detections are right: matched with the truth at IoU 0.5, image by image, as COCO does it, crowds too."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from conditional_detr.data.index import SplitIndex
from conditional_detr.evaluation.coco import Result

IOU = 0.5
ENOUGH_OBJECTS = 10  # of a class, for a threshold of its own


@dataclass(frozen=True)
class Matches:
    """Detections in flat arrays, the surest first, each with the object that it found.

    Attributes
    ----------
    scores, labels : [D]; labels are positions in the data set's categories
    boxes_xyxy : [D, 4] px
    images : int [D], positions in the data set's index
    found : int [D], the row of the object in the index; −1 where there is none of that class at IoU 0.5, or a surer
        detection has it. What lies in a crowd of its class and found no object is neither right nor wrong: it is left out
    objects : the number of objects in all images
    """

    scores: np.ndarray
    labels: np.ndarray
    boxes_xyxy: np.ndarray
    images: np.ndarray
    found: np.ndarray
    objects: int

    def by_image(self, conf: float, images: int) -> list[np.ndarray]:
        """For each of so many images the rows of its detections with such a score or more, the surest first."""
        kept = np.flatnonzero(self.scores >= conf)
        kept = kept[np.argsort(self.images[kept], kind="stable")]
        return np.split(kept, np.searchsorted(self.images[kept], np.arange(1, images)))

    def only(self, kept: np.ndarray, objects: int) -> "Matches":
        """Some of the detections, bool [D], among so many objects."""
        arrays = {key: getattr(self, key)[kept] for key in ("scores", "labels", "boxes_xyxy", "images", "found")}
        return Matches(**arrays, objects=objects)


def match(index: SplitIndex, detections: list[Result]) -> Matches:
    """Match COCO results with the objects of a split.

    Within an image and class, surer detections choose first, each the free object that it overlaps most.
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
    found = np.full(len(order), -1)
    rows_of: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(images.tolist(), labels.tolist(), strict=True)):
        rows_of.setdefault(key, []).append(row)
    for (image, label), rows in rows_of.items():
        truth_boxes, truth_labels = index.objects(image)
        objects = np.flatnonzero(truth_labels == label)
        if not len(objects):
            continue
        overlap = box_iou_batch(truth_boxes[objects].astype(np.float64), boxes[rows])
        for column, row in enumerate(rows):
            best = int(overlap[:, column].argmax())
            if overlap[best, column] >= IOU:
                found[row] = index.first[image] + objects[best]
                overlap[best] = -1.0
    counts = np.ones(len(order), dtype=bool)
    for key, crowds in _crowds(index, label_of).items():
        unmatched = np.array([row for row in rows_of.get(key, []) if found[row] < 0], dtype=int)
        counts[unmatched[_share_inside(boxes[unmatched], crowds).max(1) >= IOU]] = False
    return Matches(scores[counts], labels[counts], boxes[counts], images[counts], found[counts], len(index.labels))


def _crowds(index: SplitIndex, label_of: dict[Any, int]) -> dict[tuple[int, int], np.ndarray]:
    """Boxes [C, 4] xyxy of crowds, by image and label."""
    found: dict[tuple[int, int], list[list[float]]] = {}
    for position, category, x, y, width, height, _, is_crowd in index.ground_truth_rows.tolist():
        if is_crowd:
            found.setdefault((int(position), label_of[int(category)]), []).append([x, y, x + width, y + height])
    return {key: np.array(boxes, dtype=np.float64) for key, boxes in found.items()}


def _share_inside(boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """How much of each box [R, 4] lies in each crowd [C, 4]: [R, C]. COCO's overlap with a crowd."""
    low, high = np.maximum(boxes[:, None, :2], crowds[:, :2]), np.minimum(boxes[:, None, 2:], crowds[:, 2:])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    return np.asarray(np.prod((high - low).clip(0), -1) / np.maximum(area, 1e-12)[:, None])


@dataclass(frozen=True)
class Thresholds:
    """What each lowest score gives: precision and recall at IoU 0.5 over all classes, by rising score [S]."""

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def at(self, conf: float) -> tuple[float, float]:
        """Precision and recall of what has such a score or more; precision 1 where that is nothing."""
        i = int(np.searchsorted(self.scores, conf))
        return (float(self.precision[i]), float(self.recall[i])) if i < len(self.scores) else (1.0, 0.0)

    @property
    def f1(self) -> np.ndarray:
        """The harmonic mean of precision and recall, 0 where both are."""
        return np.asarray(2 * self.precision * self.recall / np.maximum(self.precision + self.recall, 1e-12))

    def best(self) -> int | None:
        """Where F1 is highest; None where nothing was found at all."""
        return int(self.f1.argmax()) if self.f1.any() else None

    def for_precision(self, wanted: float) -> int | None:
        """The lowest score from which on precision is as wanted; None where no score gives it."""
        enough = np.flatnonzero(self.precision >= wanted)
        return int(enough[0]) if len(enough) else None


def thresholds(matches: Matches) -> Thresholds:
    """Precision and recall by the lowest score that is kept: one entry for each score that occurs."""
    right = np.cumsum(matches.found >= 0)
    kept = np.arange(1, len(right) + 1)
    last = np.flatnonzero(np.diff(matches.scores, append=-np.inf) != 0)[::-1]  # of equal scores all are kept
    return Thresholds(matches.scores[last], right[last] / kept[last], right[last] / max(1, matches.objects))


def thresholds_by_class(index: SplitIndex, matches: Matches) -> tuple[float, list[float]] | None:
    """The lowest score at which F1 is highest: over all classes, and for each; None where nothing was found at all.

    A class with too few objects or no find has that of all classes.
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
    """Counts int [K + 1, K + 1] by supervision: true class by predicted class, the last of each is the background.

    A detection may take an object of any class here, so that mistaken classes show.
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
