"""The fingerprint of a run: what changes it, and what does not."""

import json
import shutil
from pathlib import Path

import pytest

from conditional_detr.config.run import RunConfig
from conditional_detr.data.index import load_split
from conditional_detr.device.processor import processor_name
from conditional_detr.training.artifacts.fingerprint import counts_of, data_hash, fingerprint


@pytest.fixture
def copied(digits_folder, tmp_path) -> Path:
    shutil.copytree(digits_folder, tmp_path / "elsewhere" / "data")
    return tmp_path / "elsewhere" / "data"


def change(folder: Path, what: str) -> None:
    file = folder / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    if what == "box":
        content["annotations"][0]["bbox"][0] += 0.25
    elif what == "class of a box":
        content["annotations"][0]["category_id"] = 1 + content["annotations"][0]["category_id"] % 9
    elif what == "name of a class":
        content["categories"][0]["name"] = "nought"
    elif what == "image left out":
        content["images"] = content["images"][1:]
    elif what == "bytes of an image":
        with (folder / "train" / content["images"][0]["file_name"]).open("ab") as stream:
            stream.write(b"more")
    elif what == "name of the set":
        content["info"] = {"description": "other words"}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("what", ["box", "class of a box", "name of a class", "image left out", "bytes of an image"])
def test_any_change_of_the_data_is_seen(digits_folder, copied, what: str):
    change(copied, what)
    assert data_hash(load_split(copied, "train")) != data_hash(load_split(digits_folder, "train"))


def test_a_copy_elsewhere_is_the_same_data(digits_folder, copied):
    change(copied, "name of the set")
    assert data_hash(load_split(copied, "train")) == data_hash(load_split(digits_folder, "train"))
    assert data_hash(load_split(copied, "valid")) != data_hash(load_split(copied, "train"))


def test_paths_are_no_settings(digits_folder):
    train, valid = load_split(digits_folder, "train"), load_split(digits_folder, "valid")
    config = RunConfig(data="a", output="b")
    same = fingerprint(config.model_copy(update={"data": "c", "output": "d"}), train, valid)
    assert same == fingerprint(config, train, valid)
    other = fingerprint(config.model_copy(update={"seed": 1}), train, valid)
    assert (other["settings"] != same["settings"], other["data"] == same["data"]) == (True, True)
    assert "torch" in same["versions"]


def test_the_contents_of_each_split_are_counted(digits_folder, copied):
    for split in ("train", "valid"):
        file = copied / split / "_annotations.coco.json"
        content = json.loads(file.read_text())
        counts = counts_of(load_split(copied, split))
        assert (counts["images"], counts["objects"]) == (len(content["images"]), len(content["annotations"]))
        assert (counts["shorter_side_px"], counts["longer_side_px"]) == ([64, 64, 64], [64, 64, 64])
        for category in content["categories"]:
            expected = sum(row["category_id"] == category["id"] for row in content["annotations"])
            assert counts["objects_by_category_id"][str(category["id"])] == expected
    content["images"][0]["width"], content["images"][1]["height"] = 256, 32
    file.write_text(json.dumps(content))
    counts = counts_of(load_split(copied, "valid"))
    assert (counts["shorter_side_px"], counts["longer_side_px"]) == ([32, 64, 64], [64, 64, 256])
    json.dumps(counts)


def test_the_processor_is_named(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n\nprocessor\t: 1\n")
    assert processor_name(tmp_path / "cpuinfo") == "Some CPU @ 2 GHz"
    assert processor_name(tmp_path / "none")
