"""Find the images with the worst and the best detections, and draw ground truth and predictions."""

from dataclasses import dataclass

import numpy as np

from conditional_detr.data.index import SplitIndex
from conditional_detr.evaluation.greedy_matching import Matches
from conditional_detr.evaluation.plots import shortened
from conditional_detr.images.decoding import decode_array
from conditional_detr.inference.drawing import draw

RIGHT, WRONG, MISSED = "#059669", "#dc2626", "#d97706"


@dataclass(frozen=True)
class ImageErrors:
    """Errors in an image, for detections above a score threshold.

    Attributes
    ----------
    image : position of the image in the index
    right : number of detections that match an object
    wrong : number of detections that do not
    missed : number of objects without a matching detection
    """

    image: int
    right: int
    wrong: int
    missed: int

    @property
    def f1(self) -> float:
        """F1 score of the image. It is 1 without errors, also for an image without objects and detections."""
        return 2 * self.right / (2 * self.right + self.wrong + self.missed) if self.right + self.wrong + self.missed else 1.0


def image_errors(index: SplitIndex, matches: Matches, conf: float) -> list[ImageErrors]:
    """Count the errors of each image, in the order of the index."""
    kept = matches.scores >= conf
    right = np.bincount(matches.images[kept & (matches.found >= 0)], minlength=len(index))
    wrong = np.bincount(matches.images[kept & (matches.found < 0)], minlength=len(index))
    objects = index.first[1:] - index.first[:-1]
    return [ImageErrors(i, int(right[i]), int(wrong[i]), int(objects[i] - right[i])) for i in range(len(index))]


def most_wrong(found: list[ImageErrors], most: int) -> list[ImageErrors]:
    """Images with errors, lowest F1 first. Images with equal F1 are ordered by number of errors."""
    faulty = [errors for errors in found if errors.wrong + errors.missed]
    return sorted(faulty, key=lambda v: (v.f1, -v.wrong - v.missed, v.image))[:most]


def most_right(found: list[ImageErrors], most: int) -> list[ImageErrors]:
    """Images with correct detections, highest F1 first. Images with equal F1 are ordered by number of correct detections."""
    good = [errors for errors in found if errors.right]
    return sorted(good, key=lambda v: (-v.f1, -v.right, v.image))[:most]


def truth_and_prediction(index: SplitIndex, matches: Matches, conf: float, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw image i twice, uint8 [H, W, 3] each: with its ground truth and with its detections.

    Missed objects are orange, wrong detections red, all others green.
    """
    rgb = decode_array(index.paths[i])
    names = [shortened(category.name) for category in index.categories]
    boxes, labels = index.objects(i)
    rows = matches.by_image(conf, len(index))[i]
    was_found = np.isin(np.arange(index.first[i], index.first[i + 1]), matches.found[rows])
    shown = [f"{names[k]} {score:.2f}" for k, score in zip(matches.labels[rows], matches.scores[rows], strict=True)]
    return (
        draw(rgb, boxes, np.where(was_found, 0, 1), [names[k] for k in labels], (RIGHT, MISSED)),
        draw(rgb, matches.boxes_xyxy[rows], np.where(matches.found[rows] >= 0, 0, 1), shown, (RIGHT, WRONG)),
    )
