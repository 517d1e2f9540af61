"""Whether the APs of runs differ by more than the choice of the validation images explains: a paired bootstrap."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from conditional_detr.config.messages import build
from conditional_detr.config.run import RunConfig
from conditional_detr.config.toml import read_toml
from conditional_detr.data.index import SplitIndex, load_split
from conditional_detr.errors import ConditionalDETRError, RunError
from conditional_detr.evaluation.bootstrap import ClassMatches, Difference, difference
from conditional_detr.evaluation.coco import coco_evaluate
from conditional_detr.storage.json import read_json_object
from conditional_detr.storage.run_files import BEST_FIGURES, CONFIG, PREDICTIONS

AGREEMENT = 1e-9  # between an AP that is computed again and the one in metrics.json


def compare_groups(names: Sequence[str], groups: Sequence[Sequence[Path]]) -> list[str]:
    """One sentence per group of runs after the first one: its AP minus that of the first group, with a 95 % interval.

    The AP of a group is the mean over its runs. A run whose validation images or detections cannot be read is named instead.

    Parameters
    ----------
    names : names of the groups
    groups : for each group its run folders
    """
    if len(groups) < 2:
        return []
    load = cache(load_split)
    try:
        found = [[_evaluated(folder, load) for folder in folders] for folders in groups]
        first = found[0][0][0]
        if not all(_is_same(first, index) for side in found for index, _ in side):
            raise RunError("the runs do not have the same validation images, boxes and labelled classes")
    except ConditionalDETRError as error:
        return [f"Whether the runs differ was not computed: {error}"]
    sides = [[matches for _, matches in side] for side in found]
    compared = [(name, difference(sides[0], side)) for name, side in zip(names[1:], sides[1:], strict=True)]
    return [f"{name} against {names[0]}: AP {_in_words(each)}" for name, each in compared if each is not None]


def _in_words(found: Difference) -> str:
    verdict = "they differ" if found.is_clear else "no clear difference"
    return f"{found.value:+.3f} (95 % interval {found.low:+.3f} to {found.high:+.3f}): {verdict}"


def _is_same(first: SplitIndex, other: SplitIndex) -> bool:
    """Whether two splits have the same images, boxes and labelled classes."""
    labelled = [None if each.labelled is None else each.labelled.tolist() for each in (first, other)]
    is_same = first.written_ids == other.written_ids and first.categories == other.categories and labelled[0] == labelled[1]
    return is_same and np.array_equal(first.ground_truth_rows, other.ground_truth_rows)


def _evaluated(folder: Path, load: Callable[[str | Path, str], SplitIndex]) -> tuple[SplitIndex, list[ClassMatches]]:
    """The validation images of a run, and the matches of its best epoch with their objects."""
    config = build(RunConfig, read_toml(folder / CONFIG), str(folder / CONFIG))
    index = load(config.data, "valid")
    metrics = read_json_object(folder / BEST_FIGURES, RunError)
    number_of = dict(zip(index.written_ids, index.image_ids.tolist(), strict=True))
    try:
        rows = json.loads((folder / PREDICTIONS).read_text(encoding="utf-8"))
        detections = [row | {"image_id": number_of[row["image_id"]]} for row in rows]
        result = coco_evaluate(index.ground_truth(), detections)
    except OSError as error:
        raise RunError(f"{folder / PREDICTIONS} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{folder / PREDICTIONS} does not fit the data set {config.data}") from None
    before, now = metrics.get("AP"), result.metrics.AP
    if before is not None and now is not None and abs(before - now) > AGREEMENT:
        raise RunError(f"{folder} had AP {before:.3f}, but its detections have AP {now:.3f} on {config.data}: the data changed")
    return index, result.matches
