"""Find likely label errors with detections of models that were not trained on these images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from conditional_detr.data.index import SplitIndex
from conditional_detr.evaluation.coco import Result

SAME, NEAR = 0.5, 0.1  # IoU of boxes of one object, and of boxes that may be of one object but do not fit
FOUND = 0.5  # probability from which on an object counts as found
MIN_SUSPICION = 0.7  # of the errors that are listed

MISSING, NOT_FOUND, OTHER_CLASS, MISPLACED = "missing label", "not found", "other class", "misplaced box"


@dataclass(frozen=True)
class LabelError:
    """A likely error.

    Attributes
    ----------
    kind : "missing label": a confident detection where no label is; "not found": a label that the model did not find; "other
        class": the model gives another class; "misplaced box": a label beside a confident detection of its class
    suspicion : in [0, 1]; see `label_errors`
    image : position of the image in the index
    label, box_xyxy : class index and box of the label, px; None for a missing one
    found_label, found_box_xyxy, score : class index, box and score of the detection; None for "not found"
    """

    kind: str
    suspicion: float
    image: int
    label: int | None
    box_xyxy: list[float] | None
    found_label: int | None
    found_box_xyxy: list[float] | None
    score: float | None

    def to_dict(self, index: SplitIndex, originals: dict[int | str, str]) -> dict[str, Any]:
        """The error for a JSON file, with the names of the classes and the image file, by image id, in the data set."""
        names = [category.name for category in index.categories]
        id_ = index.written_ids[self.image]
        row = asdict(self) | {"image": originals.get(id_, index.paths[self.image]), "image_id": id_}
        return row | {key: None if row[key] is None else names[row[key]] for key in ("label", "found_label")}


@dataclass(frozen=True)
class _Image:
    """Objects and detections of one image: boxes xyxy, labels, and IoU [objects, detections]."""

    boxes: np.ndarray
    labels: np.ndarray
    found_boxes: np.ndarray
    found_labels: np.ndarray
    scores: np.ndarray
    iou: np.ndarray


def label_errors(index: SplitIndex, detections: Sequence[Result]) -> list[LabelError]:
    """Find likely errors in the labels of a split, the most suspicious first.

    A score is turned into the probability that a detection of this score is correct, by isotonic regression over all
    detections. The suspicion is

    - missing label: that probability
    - other class: that of the other class, times one minus that of the class of the label
    - misplaced box: that of the detection beside the label
    - not found: the fraction of the objects of this class that are found, times one minus the highest probability of a
      detection at the label

    Parameters
    ----------
    detections : COCO results of models that were not trained on these images
    """
    images = _images(index, detections)
    probabilities = _probabilities(images)
    rates = _found_rates(images, probabilities, len(index.categories))
    errors = [
        error
        for i, (image, own) in enumerate(zip(images, probabilities, strict=True))
        for error in [*_of_labels(i, image, own, rates), *_of_detections(i, image, own)]
        if error.suspicion >= MIN_SUSPICION
    ]
    return sorted(errors, key=lambda error: (-error.suspicion, error.image))


def _images(index: SplitIndex, detections: Sequence[Result]) -> list[_Image]:
    from supervision import box_iou_batch

    place_of = {int(id_): i for i, id_ in enumerate(index.image_ids)}
    label_of = {category.id: label for label, category in enumerate(index.categories)}
    rows: list[list[Result]] = [[] for _ in range(len(index))]
    for row in sorted(detections, key=lambda row: -row["score"]):
        rows[place_of[row["image_id"]]].append(row)
    images = []
    for i, found in enumerate(rows):
        boxes, labels = index.objects(i)
        found_boxes = np.array([row["bbox"] for row in found], dtype=np.float64).reshape(-1, 4)
        found_boxes[:, 2:] += found_boxes[:, :2]
        iou = np.zeros((len(boxes), len(found)))
        if len(boxes) and len(found):
            iou[:] = box_iou_batch(boxes.astype(np.float64), found_boxes)
        found_labels = np.array([label_of[row["category_id"]] for row in found], dtype=np.int64)
        scores = np.array([row["score"] for row in found], dtype=np.float64)
        images.append(_Image(boxes.astype(np.float64), labels, found_boxes, found_labels, scores, iou))
    return images


def _probabilities(images: Sequence[_Image]) -> list[np.ndarray]:
    """For each image the probability that each of its detections is correct, given its score."""
    right = [((image.iou >= SAME) & (image.labels[:, None] == image.found_labels)).any(0) for image in images]
    scores = np.concatenate([image.scores for image in images])
    order = np.argsort(scores, kind="stable")
    fitted = np.zeros(len(scores))
    if len(scores):
        fitted[order] = isotonic_regression(np.concatenate(right)[order].astype(np.float64)).x
    return np.split(fitted, np.cumsum([len(image.scores) for image in images])[:-1])


def _found_rates(images: Sequence[_Image], probabilities: Sequence[np.ndarray], classes: int) -> np.ndarray:
    """Fraction of the objects of each class at which a detection is more likely correct than not."""
    found, objects = np.zeros(classes), np.zeros(classes)
    for image, own in zip(images, probabilities, strict=True):
        best = np.where(image.iou >= SAME, own, 0).max(1, initial=0)
        np.add.at(found, image.labels, best >= FOUND)
        np.add.at(objects, image.labels, 1)
    return np.asarray(found / np.maximum(objects, 1))


def _of_labels(i: int, image: _Image, probability: np.ndarray, rates: np.ndarray) -> list[LabelError]:
    """The most likely error of each label."""
    errors = []
    is_own = image.labels[:, None] == image.found_labels
    taken = (np.where(is_own, image.iou, 0) >= SAME).any(0)  # detections that fit a label of their class
    for k, (box, label) in enumerate(zip(image.boxes.tolist(), image.labels.tolist(), strict=True)):
        at = image.iou[k] >= SAME
        own = float(probability[at & is_own[k]].max(initial=0))
        other = np.where(at & ~is_own[k] & ~taken, probability, 0)
        beside = np.where((image.iou[k] >= NEAR) & ~at & is_own[k] & ~taken, probability, 0)
        kinds = [
            (OTHER_CLASS, float(other.max(initial=0)) * (1 - own), other),
            (MISPLACED, float(beside.max(initial=0)) * (1 - own), beside),
            (NOT_FOUND, float(rates[label]) * (1 - float(probability[at].max(initial=0))), None),
        ]
        kind, suspicion, by = max(kinds, key=lambda each: each[1])
        d = None if by is None or not len(by) else int(by.argmax())
        errors.append(_error(kind, suspicion, i, image, (label, box), d))
    return errors


def _of_detections(i: int, image: _Image, probability: np.ndarray) -> list[LabelError]:
    """Detections where no label is. Of several at one place, only the one with the highest score counts."""
    from supervision import box_iou_batch

    free = np.flatnonzero(
        (image.iou < SAME).all(0) & ~((image.iou >= NEAR) & (image.labels[:, None] == image.found_labels)).any(0)
    )
    errors: list[LabelError] = []
    kept: list[int] = []
    for d in free.tolist():
        box = image.found_boxes[d : d + 1]
        if kept and (box_iou_batch(image.found_boxes[kept], box) >= SAME).any():
            continue
        kept.append(d)
        errors.append(_error(MISSING, float(probability[d]), i, image, None, d))
    return errors


def _error(
    kind: str, suspicion: float, i: int, image: _Image, label: tuple[int, list[float]] | None, d: int | None
) -> LabelError:
    own, box = label or (None, None)
    if d is None:
        return LabelError(kind, suspicion, i, own, box, None, None, None)
    found_box: list[float] = image.found_boxes[d].tolist()
    return LabelError(kind, suspicion, i, own, box, int(image.found_labels[d]), found_box, float(image.scores[d]))
