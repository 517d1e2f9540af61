"""The fingerprint of a run: hashes and counts of its data, a hash of its settings, the versions and the processor."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from conditional_detr.config.run import RunConfig
from conditional_detr.config.toml import flat
from conditional_detr.data.index import SplitIndex
from conditional_detr.device.processor import processor_name
from conditional_detr.evaluation.pages import versions

NOT_A_SETTING = frozenset({"data", "output"})  # places on this machine


def fingerprint(config: RunConfig, train: SplitIndex, valid: SplitIndex) -> dict[str, Any]:
    """Equal hashes mean: the same images and boxes, the same settings.

    Returns
    -------
    "data": hash of both splits; "train", "valid": those of each split; "settings": hash of all settings but the paths;
    "versions", "processor": texts; "counts": see `counts_of`, for each split
    """
    splits = {"train": data_hash(train), "valid": data_hash(valid)}
    settings = {key: value for key, value in flat(config.model_dump(mode="json")).items() if key not in NOT_A_SETTING}
    return {
        "data": _hash(splits),
        **splits,
        "settings": _hash(settings),
        "versions": versions(),
        "processor": processor_name(),
        "counts": {"train": counts_of(train), "valid": counts_of(valid)},
    }


def counts_of(index: SplitIndex) -> dict[str, Any]:
    """What a split contains.

    Returns
    -------
    "images", "objects": their numbers; "objects_by_category_id": number of objects of each category, its id as text;
    "shorter_side_px", "longer_side_px": smallest, median and largest, over the images
    """
    objects = np.bincount(index.labels, minlength=len(index.categories)).tolist()
    sides = np.sort(index.sizes_hw, axis=1).astype(int)
    spans = [[int(side.min()), int(np.median(side)), int(side.max())] for side in sides.T]
    return {
        "images": len(index),
        "objects": len(index.labels),
        "objects_by_category_id": {str(c.id): count for c, count in zip(index.categories, objects, strict=True)},
        "shorter_side_px": spans[0],
        "longer_side_px": spans[1],
    }


def data_hash(index: SplitIndex) -> str:
    """Hash of the classes, boxes and image files of a split. Of a file, its name and its size count, not its pixels."""
    found = hashlib.sha256()
    found.update(json.dumps([[c.id, c.name] for c in index.categories]).encode())
    for path, written in zip(index.paths, index.written_ids, strict=True):
        found.update(f"{written}\0{Path(path).name}\0{_bytes_of(path)}\0".encode("utf-8", "surrogateescape"))
    for array in (index.sizes_hw, index.first, index.boxes_xyxy, index.labels, index.ground_truth_rows):
        found.update(array.tobytes())
    if index.labelled is not None:
        found.update(index.labelled.tobytes())
    return found.hexdigest()[:16]


def _bytes_of(path: str) -> int:
    with suppress(OSError):
        return Path(path).stat().st_size
    return -1


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
