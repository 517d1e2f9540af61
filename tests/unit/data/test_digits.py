import json

import numpy as np
import pytest
from PIL import Image

from conditional_detr.data.digits import SPLIT_SHARE, _sources, draw_scene, make_digits, materials
from conditional_detr.errors import ConfigError, DataError


def test_same_seed_same_bytes_and_another_seed_other_ones(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_digits(tmp_path / name, train=3, valid=2, size=64, seed=seed)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 3 + 2 + 2
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert any((tmp_path / "a" / f).read_bytes() != (tmp_path / "c" / f).read_bytes() for f in files)


def test_the_annotations_describe_the_scenes(digits_folder):
    content = json.loads((digits_folder / "train" / "_annotations.coco.json").read_text())
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(i + 1, str(i)) for i in range(10)]
    assert len(content["images"]) == 12
    counts = {image["id"]: 0 for image in content["images"]}
    for row in content["annotations"]:
        counts[row["image_id"]] += 1
        x, y, w, h = row["bbox"]
        assert 0 <= x < x + w <= 64
        assert 0 <= y < y + h <= 64
        assert row["area"] == w * h
    assert all(1 <= n <= 8 for n in counts.values())
    with Image.open(digits_folder / "train" / content["images"][0]["file_name"]) as scene:
        assert scene.size == (64, 64)


def test_boxes_are_tight_around_what_was_drawn():
    digits, labels, photographs = _sources()
    regions = [np.full_like(p, 100) for p in photographs]  # nothing but digits changes a scene
    for seed in range(20):
        rng = np.random.default_rng(seed)
        scene, boxes, _ = draw_scene(digits, labels, regions, 128, rng)
        background = np.median(scene.reshape(-1, 3), axis=0)
        strength = np.abs(scene.astype(float) - background).max(2)
        inside = np.zeros(scene.shape[:2], dtype=bool)
        for x, y, w, h in boxes:
            inside[y : y + h, x : x + w] = True
            for edge in (
                strength[y, x : x + w],
                strength[y + h - 1, x : x + w],
                strength[y : y + h, x],
                strength[y : y + h, x + w - 1],
            ):
                assert edge.max() > 15, "ink on every side of the box"
        assert strength[~inside].max(initial=0) < 110, "no strong ink outside"


def test_training_and_validation_share_no_digit_and_no_region():
    (train_digits, _, train_regions), (valid_digits, _, valid_regions) = materials()
    digits, _, _ = _sources()
    rows = [sorted(map(bytes, part)) for part in (np.concatenate([train_digits, valid_digits]), digits)]
    assert rows[0] == rows[1]  # each digit in one of them, none in both
    assert len(train_digits) == int(SPLIT_SHARE * 1797)
    for train, valid in zip(train_regions, valid_regions, strict=True):
        assert train.shape[1] + valid.shape[1] == 640
        assert not np.shares_memory(train, valid)


def test_invalid_arguments_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="train must be at least 1, not 0"):
        make_digits(tmp_path / "d", train=0, valid=1)
    with pytest.raises(ConfigError, match="seed must be 0 or more, not -1"):
        make_digits(tmp_path / "d", train=1, valid=1, seed=-1)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/x/train cannot be written: Not a directory"):
        make_digits(tmp_path / "file" / "x", train=1, valid=1)
    with pytest.raises(ConfigError, match="size must be 32 to 2048 px, not 8"):
        make_digits(tmp_path / "d", train=1, valid=1, size=8)
    make_digits(tmp_path / "d", train=1, valid=1, size=32)
    with pytest.raises(DataError, match="exists already"):
        make_digits(tmp_path / "d", train=1, valid=1, size=32)
