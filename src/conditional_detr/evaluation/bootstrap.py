"""Intervals of AP: a bootstrap over the images (Efron, 1979).

The images of a data set are a sample. A bootstrap draws as many images from it, with replacement, and computes the AP again.
An image that is drawn twice counts twice. The middle 95 % of these APs give the width of the interval. It is placed around the
AP of all images: the drawn APs lie higher on average, because an AP of fewer different images is higher.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)  # recall levels at which COCO reads the precision
CHUNK = 4_000_000  # detections times resamples that are in memory at a time
METRICS = ("AP", "AP50")


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class in all images, highest score first, and its objects.

    Attributes
    ----------
    images : int [D], position of the image of each detection
    right : bool [T, D], whether the detection matches an object, by IoU threshold (0.50, 0.55, …, 0.95)
    wrong : bool [T, D], whether it does not. A detection that matches a crowd is neither
    objects : int [I], number of objects in each image, without crowds
    """

    images: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


def matches_of(truth: Any, found: Any, images: Sequence[int], classes: int) -> list[ClassMatches]:
    """Match detections and objects with hotcoco.

    Parameters
    ----------
    truth, found : `hotcoco.COCO` of the ground truth and of the detections; categories are numbered from 0
    images : ids of all images
    classes : number of categories
    """
    from hotcoco import COCOeval

    evaluation = COCOeval(truth, found, "bbox")
    evaluation.params.area_rng, evaluation.params.area_rng_lbl = [[0.0, 1e10]], ["all"]
    evaluation.evaluate()
    position_of = {id_: i for i, id_ in enumerate(images)}
    rows: list[list[dict[str, Any]]] = [[] for _ in range(classes)]
    for row in evaluation.eval_imgs:
        if row is not None:
            rows[row["category_id"]].append(row)
    return [_joined(sorted(each, key=lambda row: row["image_id"]), position_of) for each in rows]


def _joined(rows: list[dict[str, Any]], position_of: dict[int, int]) -> ClassMatches:
    """Join the entries of the images of one class."""
    objects = np.zeros(len(position_of), dtype=np.int64)
    for row in rows:
        objects[position_of[row["image_id"]]] = np.count_nonzero(~np.asarray(row["gtIgnore"], dtype=bool))
    scores = np.array([score for row in rows for score in row["dtScores"]])
    owners = np.array([position_of[row["image_id"]] for row in rows for _ in row["dtScores"]], dtype=np.int64)
    matched, ignored = (
        np.concatenate([np.empty((len(IOUS), 0), bool), *(np.asarray(row[key], dtype=bool) for row in rows)], axis=1)
        for key in ("dtMatched", "dtIgnore")
    )
    order = np.argsort(-scores, kind="stable")
    right, wrong = (matched & ~ignored)[:, order], (~matched & ~ignored)[:, order]
    end = int(np.flatnonzero(right.any(0))[-1]) + 1 if right.any() else 0  # what comes after the last match has no effect
    return ClassMatches(owners[order][:end], right[:, :end], wrong[:, :end], objects)


def intervals(matches: Sequence[ClassMatches]) -> dict[str, list[float] | None]:
    """95 % intervals of AP and AP50: [low, high] each, in [0, 1]. None if there are no objects."""
    found: dict[str, list[float] | None] = {}
    for name, values in _with_point(matches).items():
        bounds = _interval(values)
        found[name] = None if bounds is None else [max(0.0, bounds[0]), min(1.0, bounds[1])]
    return found


@dataclass(frozen=True)
class Difference:
    """Difference of two APs on the same images, and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def difference(
    first: Sequence[Sequence[ClassMatches]], second: Sequence[Sequence[ClassMatches]], metric: str = "AP"
) -> Difference | None:
    """Paired bootstrap: both sides are evaluated on the same drawn images. None if there are no objects.

    Parameters
    ----------
    first, second : the matches of one or several runs each, on the same images in the same order. The AP of a side is the mean
        over its runs
    """
    sides = [[_with_point(matches)[metric] for matches in side] for side in (first, second)]
    before, after = (np.mean(side, axis=0) for side in sides)
    bounds = _interval(after - before)
    return None if bounds is None else Difference(float(after[0] - before[0]), *bounds)


def _with_point(matches: Sequence[ClassMatches]) -> dict[str, np.ndarray]:
    """The metrics of all images, followed by those of the resamples."""
    images = len(matches[0].objects) if matches else 0
    return {
        name: np.concatenate([metrics_of(matches, np.ones((1, images), dtype=np.int64))[name], values])
        for name, values in resampled_metrics(matches).items()
    }


def resampled_metrics(matches: Sequence[ClassMatches], resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, np.ndarray]:
    """AP and AP50 of each resample, [B] each; NaN for a resample without objects.

    The same seed draws the same images, so that the results of two models can be compared one by one.
    """
    images = len(matches[0].objects) if matches else 0
    if not images:
        return dict.fromkeys(METRICS, np.full(resamples, np.nan))
    generator = np.random.default_rng(seed)
    times = generator.multinomial(images, np.full(images, 1 / images), resamples)
    return metrics_of(matches, times)


def metrics_of(matches: Sequence[ClassMatches], times: np.ndarray) -> dict[str, np.ndarray]:
    """AP and AP50 if each image counts as many times as `times` [B, I] says: [B] each."""
    by_class = np.array([_precision(each, times) for each in matches]).reshape(len(matches), len(times), len(IOUS))  # [K, B, T]
    with np.errstate(invalid="ignore"):
        counted = ~np.isnan(by_class[..., 0])
        mean = np.where(counted[..., None], by_class, 0).sum(0) / counted.sum(0)[:, None]
    return {"AP": mean.mean(1), "AP50": mean[:, 0]}


def _precision(matches: ClassMatches, times: np.ndarray) -> np.ndarray:
    """Precision averaged over the recall levels, [B, T]; NaN where no object is drawn."""
    objects = times @ matches.objects
    found = np.zeros((len(times), len(matches.right)))
    for rows in _chunks(len(times), len(matches.images)):
        counts = times[rows][:, matches.images]
        for t, (right, wrong) in enumerate(zip(matches.right, matches.wrong, strict=True)):
            hits = np.cumsum(counts * right, axis=1)
            precision = hits / np.maximum(hits + np.cumsum(counts * wrong, axis=1), 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            for b, (own_hits, own_envelope) in enumerate(zip(hits, envelope, strict=True), rows.start):
                if objects[b]:
                    at = np.searchsorted(own_hits / objects[b], RECALLS, side="left")
                    found[b, t] = own_envelope[at[at < len(own_hits)]].sum() / len(RECALLS)
    found[objects == 0] = np.nan
    return found


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, CHUNK // max(1, columns))
    return (slice(first, min(first + size, rows)) for first in range(0, rows, size))


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    """The middle 95 % of the resamples, moved so that their mean is the value of all images, which comes first."""
    point, drawn = values[0], values[1:][~np.isnan(values[1:])]
    if np.isnan(point) or not len(drawn):
        return None
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - drawn.mean() + point
    return min(float(low), float(point)), max(float(high), float(point))
