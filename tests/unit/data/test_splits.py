"""Conventions detected over all splits: ids off by one, objects marked as crowds, box formats, class names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import run
from conditional_detr.data.annotations import mark_of
from conditional_detr.data.index import Category, load_split, match_categories
from conditional_detr.data.splits.conventions import category_shift, marked_objects
from conditional_detr.data.splits.together import class_differences, spelled_otherwise
from conditional_detr.errors import DataError
from conditional_detr.training.setup.data_checks import check_data

FILE = "_annotations.coco.json"


def content(ids: list[int], listed: list[int], **values: Any) -> dict[str, Any]:
    """One image per annotation; the annotations have these category ids and values."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in range(len(ids))],
        "annotations": [
            {"id": i, "image_id": i, "category_id": id_, "bbox": [10, 10, 30, 20], "area": 600, "iscrowd": 0} | values
            for i, id_ in enumerate(ids)
        ],
        "categories": [{"id": id_, "name": f"c{id_}"} for id_ in listed],
    }


def picture(seed: str) -> Image.Image:
    """Blocks of random colours, so that no two look alike."""
    colours = np.random.default_rng([*seed.encode()]).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(colours, np.ones((20, 20, 1), dtype=np.uint8)))


def write(root: Path, **splits: dict[str, Any]) -> Path:
    for split, what in splits.items():
        (root / split).mkdir(parents=True)
        for image in what["images"]:
            picture(f"{split}{image['id']}").save(root / split / image["file_name"])
        (root / split / FILE).write_text(json.dumps(what))
    return root


@pytest.mark.parametrize(
    ("used", "listed", "shift"),
    [
        ([[0] + [1, 2] * 100], [1, 2, 3], 1),  # one in 200
        ([[3] + [2, 1] * 100], [0, 1, 2], -1),
        ([[1, 2] * 9, [0, 1]], [1, 2, 3], 1),  # only the other split shows it
        ([[0, 1, 2], [3]], [1, 2, 3], 0),  # id 3 would be lost in the other split
        ([[1, 2, 3] * 9], [1, 2, 3], 0),
        ([[1, 2] * 9], [1, 2, 3], 0),  # nothing is unknown
        ([[0, 99, 1, 2]], [1, 2, 3], 1),  # 99 is unknown anyway
        ([[99, 1, 2]], [1, 2, 3], 0),
        ([[2, 7]], [1, 3, 8], 0),  # in a gap, and too few
        ([[2, 7] * 9], [1, 3, 8], 1),
        ([[2] * 9], [1, 3], 0),  # up or down
        ([[]], [1, 2], 0),
    ],
)
def test_ids_off_by_one_are_judged_by_what_explains_them(used: list[list[int]], listed: list[int], shift: int):
    assert category_shift([content(ids, listed) for ids in used]) == shift


def test_a_split_that_does_not_show_the_slip_is_refused_too_and_repaired(tmp_path, capsys):
    data = write(tmp_path / "d", train=content([0, 1, 2, 1, 2], [1, 2, 3]), valid=content([1, 1], [1, 2, 3]))
    with pytest.raises(DataError, match=r"off by one: 0 of 2 .*found in another split.*With \+1 added, all ids are known"):
        load_split(data, "valid")
    with pytest.raises(
        DataError, match=r"off by one: 1 of 5 annotations have an id that is not listed \(0\); listed are 1, 2, 3"
    ):
        load_split(data, "train")
    code, _, _ = run(capsys, "doctor", data, "--fix", tmp_path / "clean")
    assert code == 3
    assert [row["category_id"] for row in json.loads((tmp_path / "clean" / "valid" / FILE).read_text())["annotations"]] == [
        2,
        2,
    ]
    assert load_split(tmp_path / "clean", "train").labels.tolist() == [0, 1, 2, 1, 2]


def test_yolo_numbers_that_count_from_one(tmp_path):
    for split, numbers in (("train", [1, 2, 3]), ("val", [1])):
        for kind in ("images", "labels"):
            (tmp_path / kind / split).mkdir(parents=True)
        Image.new("RGB", (100, 80)).save(tmp_path / "images" / split / "a.png")
        lines = [f"{k} 0.{k + 2} 0.5 0.2 0.2" for k in numbers]
        (tmp_path / "labels" / split / "a.txt").write_text("\n".join(lines))
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b, c]\n")
    for split in ("train", "valid"):
        with pytest.raises(DataError, match="With -1 added, all ids are known"):
            load_split(tmp_path, split)


def test_few_boxes_in_the_format_of_another_split_are_recognised(tmp_path):
    train = content([1] * 30, [1], bbox=[60, 50, 90, 70])
    data = write(tmp_path, train=train, valid=content([1, 1], [1], bbox=[60, 50, 90, 70]))
    with pytest.raises(DataError, match="boxes are in the format xyxy, as in another split"):
        load_split(data, "valid")


@pytest.mark.parametrize("mark", ["iscrowd", "difficult", "ignore"])
@pytest.mark.parametrize("value", [1, True, "1", "true"])
def test_marked_annotations_are_no_targets_and_neither_found_nor_missed(tmp_path, mark: str, value: object):
    what = content([1] * 20, [1])
    what["annotations"][3][mark] = value
    index = load_split(write(tmp_path, train=what), "train")
    assert len(index.labels) == 19
    assert [row["iscrowd"] for row in index.ground_truth()["annotations"]] == [int(i == 3) for i in range(20)]
    name = {"iscrowd": "crowd"}.get(mark, mark)
    assert str(index.summary) == f"20 images, 19 boxes, 1 class; 1 box left out (1 marked as {name}); 1 image without boxes"
    assert not index.report


def marked(marks: int, others: int, class_id: int = 1) -> list[dict[str, Any]]:
    return [{"category_id": class_id, "iscrowd": int(i < marks)} for i in range(marks + others)]


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        (marked(3, 97), set()),  # true crowds
        (marked(40, 60), set()),
        (marked(60, 40), {"c1"}),
        (marked(2, 0), {"c1"}),  # all of a small set
        (marked(6, 5) + marked(0, 100, 2), {"c1"}),  # most of one class
        (marked(3, 1) + marked(0, 100, 2), set()),  # too few to decide
        (marked(60, 0) + marked(2, 20, 2), {"c1", "c2"}),  # most of the set
    ],
)
def test_marks_that_most_objects_have_do_not_distinguish_them(rows: list[dict[str, Any]], taken: set[str]):
    categories = [{"id": 1, "name": "c1"}, {"id": 2, "name": "c2"}]
    found = marked_objects([{"images": [], "annotations": rows, "categories": categories}])
    assert found == {("crowd", name) for name in taken}


def test_objects_marked_as_crowds_are_taken_as_objects_in_all_splits(tmp_path, capsys):
    train, valid = content([1] * 20, [1], iscrowd=1), content([1] * 4, [1])
    valid["annotations"][0]["iscrowd"] = valid["annotations"][1]["iscrowd"] = 1
    data = write(tmp_path / "d", train=train, valid=valid)
    indices = {split: load_split(data, split) for split in ("train", "valid")}
    assert [len(index.labels) for index in indices.values()] == [20, 4]
    assert [sum(row["iscrowd"] for row in index.ground_truth()["annotations"]) for index in indices.values()] == [0, 0]
    assert indices["train"].report == [
        "box-marked: 20 of 20 boxes of the class c1 are marked as crowd (iscrowd), so the mark does not distinguish them "
        "from ordinary objects: the boxes are used as ordinary objects"
    ]
    _, out, _ = run(capsys, "doctor", data, "--fix", tmp_path / "clean")
    assert "train: 20 images, 20 boxes, 1 class" in out
    rows = json.loads((tmp_path / "clean" / "train" / FILE).read_text())["annotations"]
    assert not any(map(mark_of, rows))
    assert not load_split(tmp_path / "clean", "train").report


def test_many_marks_that_are_left_out_are_said(tmp_path):
    what = content([1] * 40, [1])
    for row in what["annotations"][:8]:
        row["ignore"] = 1
    (line,) = load_split(write(tmp_path, train=what), "train").report
    assert line.startswith(
        "box-marked: 8 of 40 boxes of the class c1 are marked as ignore (ignore): nothing is changed; the boxes"
    )


def test_difficult_objects_of_voc_are_left_out_of_training(tmp_path):
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>30</ymax></bndbox>"
    other = box.replace("5<", "9<")
    (tmp_path / "train").mkdir()
    Image.new("RGB", (100, 80)).save(tmp_path / "train" / "a.png")
    objects = f"<object><name>dog</name>{box}</object><object><name>dog</name>{other}</object>"
    hard = f"<object><name>dog</name><difficult> 1 </difficult>{box.replace('30', '40')}</object>"
    (tmp_path / "train" / "a.xml").write_text(f"<annotation>{objects}{hard}</annotation>")
    index = load_split(tmp_path, "train")
    assert len(index.labels) == 2
    assert index.left_out == {"marked as difficult": 1}
    assert [row["iscrowd"] for row in index.ground_truth()["annotations"]] == [0, 0, 1]


def test_classes_that_only_one_split_has():
    train = {"red": 5, "Dark-Green": 3, "bicycle": 2, "rare": 4, "ghost": 0}
    valid = {"red": 2, "dark green": 2, "bicycles": 1, "rare": 0}
    messages = [finding.message for finding in class_differences({"train": train, "valid": valid})]
    assert len(messages) == 4
    assert "train has 'Dark-Green': are they the same class?" in messages[0]
    assert "'bicycles' has 1 object in valid but none in train: training cannot learn it" in messages[1]
    assert "The nearest name that only train has is 'bicycle'" in messages[1]
    assert messages[2].startswith("the class 'Dark-Green' has 3 objects in train but none in valid: its AP cannot be computed")
    assert class_differences({"train": {"a": 1}, "valid": {"a": 2}}) == []
    assert class_differences({"valid": {"a": 2}}) == []


def test_two_spellings_of_a_class_in_one_list_of_names():
    names = [finding.message for finding in class_differences({"train": {"a": 3, "A": 0}, "valid": {"a": 0, "A": 3}})]
    assert len(names) == 2
    assert all("are they the same class?" in name for name in names)


def test_no_class_in_common_names_those_that_differ_in_spelling():
    assert spelled_otherwise(["Red", "blue"], ["red", "green"]) == {"Red": "red"}
    with pytest.raises(DataError, match=r"Are 'red' and 'Red ' the same class\?"):
        match_categories(["red"], [1], [Category(1, "Red ")], "x.json")


def yolo(root: Path, labels: str) -> Path:
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        picture(split).save(root / "images" / split / f"{split}.png")
    for name in ("train", labels):
        (root / "labels" / name).mkdir(parents=True)
    (root / "labels" / "train" / "train.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "labels" / labels / "val.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red]\n")
    return root


@pytest.mark.parametrize("name", ["valid", "Val", "validation"])
def test_labels_in_a_folder_of_another_name_are_found_and_said(tmp_path, capsys, name: str):
    data = yolo(tmp_path, name)
    index = load_split(data, "valid")
    text = (
        "no label file was found for any image (1 image). "
        f"Expected, for example: {data}/labels/val/val.txt. "
        f"{data}/labels/{name} has 1 file with the names of these images: rename the folder '{name}'"
    )
    assert any(text in line for line in index.report)
    code, out, _ = run(capsys, "doctor", data)
    assert code == 3
    assert f"error    labels-missing         valid: {data}/labels/val: {text}" in out
    assert load_split(data, "train").report == []


def test_a_split_without_labels_is_a_warning(tmp_path, capsys):
    data = yolo(tmp_path, "val")
    (data / "labels" / "val" / "val.txt").unlink()
    code, out, _ = run(capsys, "doctor", data)
    assert code == 0
    assert "warning  labels-missing" in out
    assert f"Expected, for example: {data}/labels/val/val.txt (--fix" in out


def test_nothing_to_train_on_says_why(tmp_path):
    data = yolo(tmp_path, "val")
    (data / "labels" / "train").rename(data / "labels" / "Training")
    train = load_split(data, "train")
    with pytest.raises(DataError, match=r"has no usable box.*labels-missing: .*Training has 1 file with the names of these"):
        check_data(train, load_split(data, "valid"), strict=False, max_bad=0.25)
