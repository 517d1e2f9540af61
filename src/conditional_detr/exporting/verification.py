"""Compare an exported model with its original: both run the complete inference on the same images."""

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

LOWEST_COMPARED = 0.3  # boxes with a lower score are not compared individually
SAME_BOX = 0.9  # minimum IoU of two boxes that count as the same
TIMED_IMAGES, LEAST_TIMED, TIMED_S = 20, 3, 10  # most and fewest images of the latency measurement; it ends after 10 s
Found = dict[int, dict[str, np.ndarray]]  # records of `postprocess` by the position of the image


@dataclass(frozen=True)
class Agreement:
    """Agreement between the boxes of two models.

    Attributes
    ----------
    original, exported : number of boxes of each model with a score of at least `LOWEST_COMPARED`
    ious, score_differences : IoU and absolute score difference of each matched pair. A box of the original is matched if the
        export has a box of the same class with an IoU of at least `SAME_BOX`
    rank_difference : largest difference between the scores of equal rank in an image, over all scores
    """

    original: int
    exported: int
    ious: list[float]
    score_differences: list[float]
    rank_difference: float

    def to_dict(self) -> dict[str, Any]:
        differences = self.score_differences
        return {
            "score": LOWEST_COMPARED, "iou": SAME_BOX,
            "original": self.original, "exported": self.exported, "matched": len(self.ious),
            "least_iou": min(self.ious, default=None),
            "score_difference": {"mean": mean(differences), "max": max(differences)} if differences else None,
            "rank_difference": self.rank_difference,
        }  # fmt: skip


def detect_all(
    model: Model, images: Sequence[ImageInput], index: SplitIndex | None = None, doing: str = "", report: Report = unreported
) -> Found:
    """All detections of a model, by the position of the image. Images that cannot be used are left out.

    With an `index`, an image must also have the size that the data set gives. `report` is told `doing` and the image's number.
    """
    detected = detect(model, images, on_unreadable=lambda *_: None)
    return {
        position: result
        for position, rgb, result in counted(detected, len(images), doing, report)
        if index is None or index.has_size(position, (rgb.shape[0], rgb.shape[1]))
    }


def average_precision(model: Model, found: Found, index: SplitIndex) -> float | None:
    """COCO AP of detections, over the images that could be read. None if these images have no objects."""
    category_of = match_categories(model.class_names, model.category_ids, index.categories, str(index.file))
    results = [row for i, result in found.items() for row in coco_results(result, int(index.image_ids[i]), category_of)]
    read = index.without(set(range(len(index))) - found.keys())
    return coco_metrics(read.ground_truth(), results).AP


def agreement(original: Found, exported: Found) -> Agreement:
    """Compare the detections of two models.

    Each box of the original with a score of at least `LOWEST_COMPARED` is matched to the box of the export with the nearest
    score, among those of the same class with an IoU of at least `SAME_BOX`. Each box is matched once. Boxes of the export
    are matched whatever their score, because a score may fall from 0.301 to 0.299.
    """
    counts, ious, differences, ranks = [0, 0], [], [], [0.0]
    for position, ours in original.items():
        theirs, taken = exported[position], set()
        sure = ours["scores"] >= LOWEST_COMPARED
        counts[0] += int(sure.sum())
        counts[1] += int((theirs["scores"] >= LOWEST_COMPARED).sum())
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

    Models alternate. The first round is a warm-up. Up to 20 images are used, slow models get fewer: three, or what 10 s allow.
    """
    rounds: list[list[float]] = [[] for _ in models]
    decoded = [decode_array(image) for image in images[:TIMED_IMAGES]]
    end = time.perf_counter() + TIMED_S
    for image in counted([decoded[0], *decoded], len(decoded) + 1, "proof: latency, round", report):
        for model, times in zip(models, rounds, strict=True):
            started = time.perf_counter()
            detect_all(model, [image])
            times.append(1e3 * (time.perf_counter() - started))
        if time.perf_counter() > end and len(rounds[0]) > LEAST_TIMED:
            break
    return [median(times[1:]) for times in rounds]
