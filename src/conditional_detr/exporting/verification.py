"""Compare an exported model with its original. Both run the complete inference on the same images."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_iou

from conditional_detr.data.index import SplitIndex, match_categories
from conditional_detr.evaluation.coco import coco_metrics, coco_results
from conditional_detr.images.decoding import ImageInput, decode_array
from conditional_detr.inference.batching import Model, detect
from conditional_detr.inference.progress import Report, counted, unreported

MIN_SCORE = 0.3  # boxes with a lower score are not compared individually
SAME_BOX = 0.9  # minimum IoU of two boxes that count as the same
MAX_TIMED_IMAGES, MIN_TIMED_IMAGES, TIMED_S = (
    20,
    3,
    10,
)  # maximum and minimum number of images for the latency, and time limit in s
Found = dict[int, dict[str, np.ndarray]]  # position of the image → its detections, as in `postprocess`


@dataclass(frozen=True)
class Agreement:
    """Agreement between the boxes of two models.

    Attributes
    ----------
    original, exported : number of boxes of each model with a score of at least `MIN_SCORE`
    ious, score_differences : IoU and absolute score difference of each matched pair, see `agreement`
    rank_difference : largest difference between scores of the same rank in an image, over all ranks and images
    """

    original: int
    exported: int
    ious: list[float]
    score_differences: list[float]
    rank_difference: float

    def to_dict(self) -> dict[str, Any]:
        differences = self.score_differences
        return {
            "score": MIN_SCORE, "iou": SAME_BOX,
            "original": self.original, "exported": self.exported, "matched": len(self.ious),
            "least_iou": min(self.ious, default=None),
            "score_difference": {"mean": mean(differences), "max": max(differences)} if differences else None,
            "rank_difference": self.rank_difference,
        }  # fmt: skip


def detect_all(
    model: Model, images: Sequence[ImageInput], index: SplitIndex | None = None, activity: str = "", report: Report = unreported
) -> Found:
    """Return all detections of a model, by the position of the image. Images that cannot be used are left out.

    With an `index`, images whose size differs from that in the data set are left out too. `report` receives `activity` with the
    number of the image.
    """
    detected = detect(model, images, on_unreadable=lambda *_: None)
    return {
        position: result
        for position, rgb, result in counted(detected, len(images), activity, report)
        if index is None or index.has_size(position, (rgb.shape[0], rgb.shape[1]))
    }


def average_precision(model: Model, found: Found, index: SplitIndex) -> float | None:
    """Compute the COCO AP of detections over the images that could be read. None if these have no objects."""
    category_of = match_categories(model.class_names, model.category_ids, index.categories, str(index.file))
    results = [row for i, result in found.items() for row in coco_results(result, int(index.image_ids[i]), category_of)]
    read = index.without(set(range(len(index))) - found.keys())
    return coco_metrics(read.ground_truth(), results).AP


def agreement(original: Found, exported: Found) -> Agreement:
    """Compare the detections of two models.

    Each box of the original with a score of at least `MIN_SCORE` is matched to the box of the export with the nearest score,
    among those of the same class with an IoU of at least `SAME_BOX`. Each box is matched at most once. Boxes of the export may
    have a score below `MIN_SCORE`, because a score may fall from 0.301 to 0.299.
    """
    counts, ious, differences, ranks = [0, 0], [], [], [0.0]
    for position, ours in original.items():
        theirs, taken = exported[position], set()
        sure = ours["scores"] >= MIN_SCORE
        counts[0] += int(sure.sum())
        counts[1] += int((theirs["scores"] >= MIN_SCORE).sum())
        ranks.append(float(np.abs(ours["scores"] - theirs["scores"]).max()))
        overlaps = box_iou(torch.from_numpy(ours["boxes"][sure]), torch.from_numpy(theirs["boxes"])).numpy()
        same = ours["labels"][sure][:, None] == theirs["labels"][None]
        for i, row in enumerate((overlaps * same).tolist()):
            gaps = {
                j: abs(float(ours["scores"][sure][i] - theirs["scores"][j]))
                for j, iou in enumerate(row)
                if iou >= SAME_BOX and j not in taken
            }
            if gaps:
                nearest = min(gaps, key=lambda j: gaps[j])
                taken.add(nearest)
                ious.append(row[nearest])
                differences.append(gaps[nearest])
    return Agreement(counts[0], counts[1], ious, differences, max(ranks))


def latencies_ms(models: Sequence[Model], images: Sequence[ImageInput], report: Report = unreported) -> list[float]:
    """Median latency of each model in ms, from a decoded image to its boxes.

    Models take turns. The first round is a warm-up. Up to 20 images are used. After 10 s the measurement ends, but not before
    three images.
    """
    rounds: list[list[float]] = [[] for _ in models]
    decoded = [decode_array(image) for image in images[:MAX_TIMED_IMAGES]]
    end = time.perf_counter() + TIMED_S
    for image in counted([decoded[0], *decoded], len(decoded) + 1, "proof: latency, round", report):
        for model, times in zip(models, rounds, strict=True):
            started = time.perf_counter()
            detect_all(model, [image])
            times.append(1e3 * (time.perf_counter() - started))
        if time.perf_counter() > end and len(rounds[0]) > MIN_TIMED_IMAGES:
            break
    return [median(times[1:]) for times in rounds]
