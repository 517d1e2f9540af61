"""`cdetr data split`: shares, look-alikes, classes, ids."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import run
from conditional_detr.data.index import load_split
from conditional_detr.doctor.image_scan import near_groups, scan_image
from conditional_detr.doctor.new_splits import balanced, shares_of
from conditional_detr.errors import ConfigError, DataError


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)


def write(root: Path, number: int = 20, ids: str = "image-{}", classes: tuple[str, ...] = ("a", "b")) -> None:
    """A data set as annotation tools export it: one JSON file, no splits. Each third image is a compressed copy."""
    (root / "images").mkdir(parents=True)
    images, rows = [], []
    for i in range(number):
        picture(i - (i % 3 == 2)).save(root / "images" / f"{i}.jpg", quality=95 - 20 * (i % 3 == 2))
        images.append({"id": ids.format(i), "file_name": f"images/{i}.jpg", "width": 80, "height": 60})
        if i % 5:
            box = {"id": len(rows), "image_id": ids.format(i), "bbox": [1, 1, 30, 30], "note": f"box of {i}"}
            rows.append(box | {"category_id": 7 + i % len(classes)})
    categories = [{"id": 7 + k, "name": name} for k, name in enumerate(classes)]
    (root / "result.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))


def content(folder: Path, split: str) -> dict:
    return json.loads((folder / split / "_annotations.coco.json").read_text())


def test_a_data_set_without_splits_is_split(tmp_path, capsys):
    write(tmp_path / "export")
    code, out, err = run(capsys, "data", "split", tmp_path / "export", tmp_path / "cells", "--valid", "0.25", "--test", "0.1")
    assert (code, err) == (0, "")
    assert "6 groups of images that look the same. Each group is in one split. Seed: 0" in out
    parts = {split: content(tmp_path / "cells", split) for split in ("train", "valid", "test")}
    place = {image["id"]: split for split, part in parts.items() for image in part["images"]}
    assert place.keys() == {f"image-{i}" for i in range(20)}  # the ids are those of the export
    assert all(place[f"image-{i - 1}"] == place[f"image-{i}"] for i in range(2, 20, 3))
    counts = Counter(place.values())
    assert counts["train"] in (12, 13, 14)
    assert counts["valid"] in (4, 5, 6)
    assert counts["test"] in (1, 2, 3)
    for part in parts.values():
        assert [category["name"] for category in part["categories"]] == ["a", "b"]
        own = {image["id"]: image["file_name"] for image in part["images"]}
        assert all(row["note"] == f"box of {Path(own[row['image_id']]).stem}" for row in part["annotations"])
    assert len(load_split(tmp_path / "cells", "valid")) == counts["valid"]
    code, _, _ = run(capsys, "doctor", tmp_path / "cells")
    assert code == 0


def test_the_seed_decides(tmp_path, capsys):
    write(tmp_path / "export")
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(capsys, "data", "split", tmp_path / "export", tmp_path / name, "--seed", seed)
        found.append({image["id"] for image in content(tmp_path / name, "valid")["images"]})
    assert found[0] == found[1] != found[2]
    assert not (tmp_path / "a" / "test").exists()


def test_splits_that_are_there_are_joined_and_ids_stay_unique(tmp_path, capsys):
    write(tmp_path / "one", 9, ids="{}", classes=("a", "b"))
    write(tmp_path / "two", 9, ids="{}", classes=("c", "a"))
    for name, split in (("one", "train"), ("two", "test")):
        (tmp_path / "set" / split).mkdir(parents=True)
        for file in (tmp_path / name / "images").iterdir():
            file.rename(tmp_path / "set" / split / file.name)
        text = (tmp_path / name / "result.json").read_text().replace("images/", "")
        (tmp_path / "set" / split / "_annotations.coco.json").write_text(text)
    code, out, _ = run(capsys, "data", "split", tmp_path / "set", tmp_path / "new", "--valid", "0.4")
    assert code == 0
    assert "The existing splits (test, train) are merged and split again" in out
    parts = [content(tmp_path / "new", split) for split in ("train", "valid")]
    assert len({image["id"] for part in parts for image in part["images"]}) == 18
    assert {category["name"] for category in parts[0]["categories"]} == {"a", "b", "c"}
    assert parts[0]["categories"] == parts[1]["categories"]
    names = {category["id"]: category["name"] for category in parts[0]["categories"]}
    counts = Counter(names[row["category_id"]] for part in parts for row in part["annotations"])
    assert counts == {"a": 7, "b": 3, "c": 4}


def test_each_split_gets_its_share_of_each_class():
    rng = np.random.default_rng(0)
    classes = [{str(k) for k in range(4) if rng.random() < 0.5 / (k + 1)} or {""} for _ in range(400)]
    shares = shares_of(0.2, 0.1)
    parts = balanced([[i] for i in range(400)], classes, shares, 0)
    assert sorted(i for part in parts.values() for i in part) == list(range(400))
    for name, share in shares.items():
        assert abs(len(parts[name]) - 400 * share) <= 4
        for label in ("0", "1", "2", "3", ""):
            total = sum(label in found for found in classes)
            assert abs(sum(label in classes[i] for i in parts[name]) - share * total) <= 0.02 * total + 3


def test_no_split_is_empty():
    parts = balanced([[0], [1], [2, 3]], [{"a"}] * 4, shares_of(0.05, 0.05), 0)
    assert all(parts.values())
    with pytest.raises(DataError, match="2 groups cannot be divided into 3 splits"):
        balanced([[0, 1], [2]], [{"a"}] * 3, shares_of(0.2, 0.2), 0)


def test_look_alikes_are_one_group_also_through_others(tmp_path):
    for i, seed in enumerate((1, 2, 1, 3)):
        picture(seed).save(tmp_path / f"{i}.png", compress_level=i)
    Image.new("RGB", (80, 60)).save(tmp_path / "4.png")
    Image.new("RGB", (80, 61)).save(tmp_path / "5.png")  # too uniform to be compared
    (tmp_path / "6.png").write_bytes(b"no image")
    (tmp_path / "7.png").write_bytes((tmp_path / "4.png").read_bytes())
    groups = near_groups([scan_image(str(tmp_path / f"{i}.png")) for i in range(8)])
    assert sorted(map(sorted, groups)) == [[0, 2], [1], [3], [4, 7], [5], [6]]
    assert near_groups([]) == []


@pytest.mark.parametrize(("valid", "test"), [(0, 0), (1, 0), (-0.1, 0), (0.5, 0.5), (0.2, -0.1), (float("nan"), 0), (20, 10)])
def test_shares_that_leave_nothing_for_train_are_refused(valid: float, test: float):
    with pytest.raises(ConfigError, match="--valid must be above 0, --test 0 or more, and their sum below 1"):
        shares_of(valid, test)
