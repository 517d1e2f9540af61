"""The fingerprint of a run: hashes of its data and settings, and the versions and the processor it ran with."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    "versions", "processor": texts
    """
    splits = {"train": data_hash(train), "valid": data_hash(valid)}
    settings = {key: value for key, value in flat(config.model_dump(mode="json")).items() if key not in NOT_A_SETTING}
    return {
        "data": _hash(splits),
        **splits,
        "settings": _hash(settings),
        "versions": versions(),
        "processor": processor_name(),
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
