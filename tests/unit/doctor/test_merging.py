"""`cdetr data merge`, and images in which only some categories are labelled."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import run
from conditional_detr.config.recipes import RECIPES
from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.index import load_split
from conditional_detr.data.loader import Collate, TrainingImages
from conditional_detr.doctor.merging import merge_sets
from conditional_detr.errors import DataError
from conditional_detr.evaluation.coco import coco_evaluate, coco_metrics
from conditional_detr.evaluation.duplicates import find_duplicates
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.inference.detector import Detector

BOX = [10, 10, 20, 20]


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)


def write(root: Path, boxes: dict[int, list[str]], classes: list[str], split: str = "train", **images: list[int]) -> Path:
    """A split: for each picture the classes of its boxes. `images`: labelled_category_ids of the pictures that have them."""
    folder = root / split
    folder.mkdir(parents=True)
    ids = {name: 10 * (k + 1) for k, name in enumerate(classes)}
    content: dict = {"images": [], "annotations": [], "categories": [{"id": id_, "name": name} for name, id_ in ids.items()]}
    for seed, names in boxes.items():
        picture(seed).save(folder / f"{seed}.png")
        image = {"id": seed, "file_name": f"{seed}.png", "width": 80, "height": 60}
        content["images"].append(image | ({"labelled_category_ids": images[f"p{seed}"]} if f"p{seed}" in images else {}))
        for shift, name in enumerate(names):
            box = {"id": len(content["annotations"]) + 1, "image_id": seed, "category_id": ids[name]}
            content["annotations"].append(box | {"bbox": [10 + 3 * shift, 10, 20, 20], "note": f"of {root.name}"})
    (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return root


def merged_content(folder: Path, split: str = "train") -> tuple[dict[str, list[str] | None], list[tuple[str, str]]]:
    """For each image the names of its labelled classes (None: all), and the image and class of each box."""
    content = json.loads((folder / split / "_annotations.coco.json").read_text())
    name_of = {row["id"]: row["name"] for row in content["categories"]}
    file_of = {row["id"]: row["file_name"] for row in content["images"]}
    labelled = {}
    for row in content["images"]:
        ids = row.get("labelled_category_ids")
        labelled[row["file_name"]] = None if ids is None else [name_of[id_] for id_ in ids]
    boxes = [(file_of[row["image_id"]], name_of[row["category_id"]]) for row in content["annotations"]]
    return labelled, boxes


def test_each_image_lists_the_classes_of_its_own_set(tmp_path, capsys):
    a = write(tmp_path / "a", {1: ["cat"], 2: ["person", "cat"]}, ["cat", "person", "animals"])
    write(a, {3: ["cat"]}, ["cat", "person"], "valid")
    b = write(tmp_path / "b", {4: ["dog"], 5: []}, ["dog", "person"])
    code, out, err = run(capsys, "data", "merge", a, b, tmp_path / "out")
    assert (code, err) == (0, "warning: no image of valid labels dog: the AP of this class cannot be computed\n")
    assert (
        "a: 3 images, labels cat, person (listed without a box, so not labelled: animals)\nb: 2 images, labels dog (lis" in out
    )
    assert "train: 4 images, 4 boxes, 4 images with labels of only some classes" in out
    labelled, boxes = merged_content(tmp_path / "out")
    assert labelled == {"1.png": ["cat", "person"], "2.png": ["cat", "person"], "4.png": ["dog"], "5.png": ["dog"]}
    assert sorted(boxes) == [("1.png", "cat"), ("2.png", "cat"), ("2.png", "person"), ("4.png", "dog")]
    assert merged_content(tmp_path / "out", "valid")[0] == {"3.png": ["cat", "person"]}
    code, out, _ = run(capsys, "doctor", tmp_path / "out")
    assert code == 0
    assert "4 images with labels of only some classes" in out
    index = load_split(tmp_path / "out", "train")
    assert [category.name for category in index.categories] == ["cat", "person", "dog"]
    assert index.labelled.tolist() == [[True, True, False]] * 2 + [[False, False, True]] * 2


def test_sets_of_the_same_classes_need_no_list(tmp_path):
    a, b = (write(tmp_path / name, {k: ["cat"], k + 1: ["dog"]}, ["cat", "dog"]) for name, k in (("a", 1), ("b", 5)))
    result = merge_sets([a, b])
    assert all(image["labelled"] is None for image in result.splits["train"].clean.images)
    assert result.splits["train"].summary.partly_labelled == 0


def test_one_image_in_two_sets_gets_the_labels_of_both_and_none_twice(tmp_path, capsys):
    a = write(tmp_path / "a", {1: ["cat", "person"], 2: ["cat"]}, ["cat", "person"])
    b = write(tmp_path / "b", {1: ["dog", "person"], 3: ["dog"]}, ["dog", "person"])
    code, _, err = run(capsys, "data", "merge", a, b, tmp_path / "out")
    assert code == 0
    assert "image-duplicate: 1 (b/1.png): the images are joined, with the boxes of both" in err
    labelled, boxes = merged_content(tmp_path / "out")
    assert labelled == {"1.png": None, "2.png": ["cat", "person"], "3.png": ["person", "dog"]}
    assert sorted(name for file, name in boxes if file == "1.png") == ["cat", "dog", "person"]


def test_an_image_in_the_training_split_of_one_and_the_validation_split_of_another_is_left_out_of_training(tmp_path, capsys):
    a = write(tmp_path / "a", {1: ["cat"], 2: ["cat"]}, ["cat"])
    b = write(tmp_path / "b", {1: ["dog"]}, ["dog"], "valid")
    code, _, err = run(capsys, "data", "merge", a, b, tmp_path / "out")
    assert code == 0
    assert "image-leak: 1 (b/1.png): the image is left out of train; its labels of these classes are joined" in err
    assert list(merged_content(tmp_path / "out")[0]) == ["2.png"]
    assert list(merged_content(tmp_path / "out", "valid")[0]) == ["1.png"]


def test_a_merged_set_can_be_merged_split_and_repaired_again(tmp_path, capsys):
    a, b, c = (
        write(tmp_path / name, {k: [name], k + 1: [name], k + 2: [name]}, [name])
        for name, k in (("x", 1), ("y", 11), ("z", 21))
    )
    for tokens in (
        ("data", "merge", a, b, tmp_path / "ab"),
        ("data", "merge", tmp_path / "ab", c, tmp_path / "abc"),
        ("data", "split", tmp_path / "abc", tmp_path / "parts", "--valid", "0.3"),
        ("doctor", tmp_path / "abc", "--fix", tmp_path / "fixed"),
        ("data", "convert", tmp_path / "abc", tmp_path / "same"),
    ):
        code, _, err = run(capsys, *tokens)
        assert code == 0, err
    expected = {f"{k + i}.png": [name] for name, k in (("x", 1), ("y", 11), ("z", 21)) for i in range(3)}
    assert merged_content(tmp_path / "abc")[0] == expected
    assert merged_content(tmp_path / "fixed")[0] == expected
    assert merged_content(tmp_path / "same")[0] == expected
    train, valid = (merged_content(tmp_path / "parts", split)[0] for split in ("train", "valid"))
    assert train | valid == expected
    assert len(train) + len(valid) == len(expected)


def test_names_that_differ_only_by_spelling_are_pointed_out(tmp_path, capsys):
    a, b = write(tmp_path / "a", {1: ["Car"]}, ["Car"]), write(tmp_path / "b", {2: ["car"]}, ["car"])
    code, _, err = run(capsys, "data", "merge", a, b, tmp_path / "out")
    assert code == 0
    assert "warning: 'Car' of a and 'car' of b become two classes. If they are the same class, rename one" in err


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_two_sets_and_a_new_folder_are_refused(tmp_path, capsys, count: int):
    folders = [write(tmp_path / str(k), {k: ["cat"]}, ["cat"]) for k in range(count)]
    code, _, err = run(capsys, "data", "merge", *folders)
    assert code == 2
    asked = "a new folder for the merged set must come last" if count == 2 else "needs at least two data sets and a new folder"
    assert asked in err


def test_a_folder_that_is_not_new_is_refused_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("keep")
    code, _, err = run(capsys, "data", "merge", tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert code == 2
    assert "not empty" in err


# What is labelled, in the file


def test_a_box_of_an_unlabelled_category_is_an_error_and_left_out(tmp_path, capsys):
    write(tmp_path, {1: ["cat", "dog"], 2: ["dog"]}, ["cat", "dog"], p1=[10])
    code, out, _ = run(capsys, "doctor", tmp_path)
    assert code == 3
    assert "box-unlabelled" in out
    assert "has the category id 20, which labelled_category_ids of its image does not list" in out
    index = load_split(tmp_path, "train")
    assert index.labels.tolist() == [0, 1]
    assert index.ground_truth_rows[:, :2].tolist() == [[0, 10], [1, 20]]
    assert index.left_out == {"box-unlabelled": 1}


@pytest.mark.parametrize("wrong", ["10", 10, {"10": 1}, True])
def test_an_image_whose_list_cannot_be_read_is_left_out(tmp_path, wrong):
    write(tmp_path, {1: ["cat"], 2: ["dog"]}, ["cat", "dog"], p1=wrong)
    index = load_split(tmp_path, "train")
    assert [finding.code for finding in index.findings] == ["image-categories"]
    assert index.written_ids == [2]


def test_unknown_ids_in_a_list_are_reported_and_ignored(tmp_path):
    write(tmp_path, {1: ["cat"], 2: ["dog"]}, ["cat", "dog"], p1=[10, 99, None, "20"])
    index = load_split(tmp_path, "train")
    (finding,) = index.findings
    assert (finding.code, finding.severity) == ("labelled-categories", "warning")
    assert "not ids of categories: 99, None" in finding.message
    assert index.labelled is None  # 10 and "20": both


def test_without_images_the_lists_follow_their_images(tmp_path):
    write(tmp_path, {1: ["cat"], 2: ["dog"], 3: []}, ["cat", "dog"], p1=[10], p3=[20])
    index = load_split(tmp_path, "train").without([0])
    assert index.labelled.tolist() == [[True, True], [False, True]]
    assert index.summary.partly_labelled == 1
    assert index.ground_truth()["images"][1] == {"id": 3, "labelled_category_ids": [20]}


def test_training_gets_the_labelled_classes_of_each_image(tmp_path):
    write(tmp_path, {1: ["cat"], 2: ["dog"]}, ["cat", "dog"], p1=[10])
    preprocessor = Preprocessor(PreprocessorConfig(imgsz=64))
    images = TrainingImages(load_split(tmp_path, "train"), Augmentation(RECIPES["fast"], 64), preprocessor)
    (_, _, targets), _ = Collate(preprocessor)([images[0, 1], images[1, 2]])
    assert [target["labelled_classes"].tolist() for target in targets] == [[True, False], [True, True]]


# Evaluation


def truth_and_detections() -> tuple[dict, list[dict]]:
    truth = {
        "images": [{"id": 1, "labelled_category_ids": [1]}, {"id": 2}],
        "annotations": [
            {"id": k + 1, "image_id": image, "category_id": category, "bbox": BOX, "area": 400, "iscrowd": 0}
            for k, (image, category) in enumerate([(1, 1), (2, 1), (2, 2)])
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    rows = [(1, 1, 0.9), (1, 2, 0.95), (2, 1, 0.8), (2, 2, 0.7)]
    found = [{"image_id": i, "category_id": c, "bbox": BOX, "score": score} for i, c, score in rows]
    return truth, found


def test_a_detection_of_a_class_that_is_not_labelled_in_its_image_is_neither_right_nor_wrong():
    truth, found = truth_and_detections()
    assert pytest.approx(1) == coco_metrics(truth, found).AP
    assert coco_metrics(truth, [row for row in found if row["score"] != 0.95]) == coco_metrics(truth, found)
    del truth["images"][0]["labelled_category_ids"]
    assert coco_metrics(truth, found).per_class["dog"] == pytest.approx(0.5)


def test_the_intervals_ignore_such_detections_too():
    truth, found = truth_and_detections()
    assert coco_evaluate(truth, found).intervals["AP"] == pytest.approx([1, 1])


def test_detections_of_a_split_leave_such_classes_out(tmp_path, small_model):
    """In the report, the thresholds and `predictions.json` as well."""
    from conditional_detr.evaluation.coco import detections_of

    write(tmp_path, {1: ["0"], 2: ["1"]}, ["0", "1", "2"], p1=[10, 30])
    small_model.class_names, small_model.category_ids = ["0", "1", "2"], [10, 20, 30]
    index = load_split(tmp_path, "train")
    rows, _ = detections_of(small_model, index, 2)
    assert {row["category_id"] for row in rows if row["image_id"] == 1} == {10, 30}
    assert {row["category_id"] for row in rows if row["image_id"] == 2} == {10, 20, 30}
    assert find_duplicates(index, rows, [0.0] * 3).objects == 2


# What reviewers and users found


def listed(folder: Path, changes: dict[str, object], split: str = "train") -> None:
    """Change the content of a COCO file."""
    file = folder / split / "_annotations.coco.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_of_identical_files_in_one_set_the_one_with_most_boxes_counts(tmp_path, capsys):
    a = write(tmp_path / "a", {1: [], 2: ["cat"]}, ["cat"])
    picture(1).save(a / "train" / "2.png")
    b = write(tmp_path / "b", {5: ["dog"]}, ["dog"])
    code, _, err = run(capsys, "data", "merge", a, b, tmp_path / "out")
    assert code == 0
    assert "image-duplicate: 1 (a/1.png): the image with fewer boxes is left out" in err
    assert merged_content(tmp_path / "out") == ({"2.png": ["cat"], "5.png": ["dog"]}, [("2.png", "cat"), ("5.png", "dog")])


def test_copies_that_were_annotated_at_another_size_are_joined(tmp_path, capsys):
    a, b = write(tmp_path / "a", {1: ["cat"]}, ["cat"]), write(tmp_path / "b", {1: ["dog"]}, ["dog"])
    content = json.loads((b / "train" / "_annotations.coco.json").read_text())
    content["images"][0] |= {"width": 160, "height": 120}
    content["annotations"][0] |= {"bbox": [20, 40, 60, 80], "segmentation": [[20, 40, 80, 40, 80, 120]]}
    listed(b, content)
    code, _, _ = run(capsys, "data", "merge", a, b, tmp_path / "out")
    assert code == 0
    assert merged_content(tmp_path / "out")[0] == {"1.png": None}
    rows = json.loads((tmp_path / "out" / "train" / "_annotations.coco.json").read_text())["annotations"]
    assert [row["bbox"] for row in rows] == [[10, 10, 20, 20], [10, 20, 30, 40]]
    assert "segmentation" not in rows[1]
    code, _, _ = run(capsys, "doctor", tmp_path / "out")
    assert code == 0


def test_copies_that_were_annotated_before_their_rotation_are_joined(tmp_path):
    a, b = write(tmp_path / "a", {1: ["cat"]}, ["cat"]), write(tmp_path / "b", {1: ["dog"]}, ["dog"])
    exif = Image.Exif()
    exif[274] = 6  # shown turned by 90 degrees
    for folder in (a, b):
        picture(1).save(folder / "train" / "1.png", exif=exif)
    content = json.loads((a / "train" / "_annotations.coco.json").read_text())
    content["images"][0] |= {"width": 60, "height": 80}
    listed(a, content)
    (split,) = merge_sets([a, b]).splits.values()
    (kept,) = split.used
    boxes = {row["category_id"]: row["bbox"] for row in split.clean.annotations if row["image"] == kept}
    assert [*boxes.values()] == [[10, 10, 20, 20], [30, 10, 20, 20]]  # of a as written, of b turned


def test_labels_of_an_image_that_leaves_training_go_to_the_validation_split(tmp_path):
    a = write(tmp_path / "a", {1: ["cat"], 2: ["cat"]}, ["cat"])
    b = write(write(tmp_path / "b", {3: ["dog"]}, ["dog"]), {1: ["dog"]}, ["dog"], "valid")
    splits = merge_sets([a, b]).splits
    assert sorted(row["category_id"] for row in splits["valid"].clean.annotations) == [10, 11]
    assert len({row["id"] for row in splits["valid"].clean.annotations}) == 2
    assert splits["valid"].clean.images[0]["labelled"] is None
    assert len(splits["train"].used) == 2


def test_a_set_without_splits_is_refused_beside_one_with_splits(tmp_path, capsys):
    a = write(tmp_path / "a", {1: ["cat"]}, ["cat"])
    b = write(tmp_path / "b", {2: ["dog"]}, ["dog"], "photos")
    code, _, err = run(capsys, "data", "merge", a, b, tmp_path / "out")
    assert code == 2
    assert f"{b} has no splits, but other data sets have" in err
    assert f"cdetr data split {b} b-split" in err
    assert not (tmp_path / "out").exists()


def test_three_sets_in_three_formats(tmp_path, capsys):
    cats, dogs, birds = (write(tmp_path / name, {k: [name]}, [name]) for k, name in enumerate(("cat", "dog", "bird"), 1))
    yolo = tmp_path / "yolo"
    for kind in ("images", "labels"):
        (yolo / kind / "train").mkdir(parents=True)
    (dogs / "train" / "2.png").rename(yolo / "images" / "train" / "2.png")
    (yolo / "labels" / "train" / "2.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    (yolo / "data.yaml").write_text("train: images/train\nnames: [dog]\n")
    code, out, err = run(capsys, "data", "merge", cats, yolo, birds, tmp_path / "out")
    assert (code, err) == (0, "")
    assert "yolo: 1 image, labels dog" in out
    assert merged_content(tmp_path / "out")[0] == {"1.png": ["cat"], "2.png": ["dog"], "3.png": ["bird"]}


def test_rows_of_one_file_have_the_labels_of_all(tmp_path):
    write(tmp_path, {1: ["cat"], 2: ["dog"]}, ["cat", "dog"], p1=[10], p2=[20])
    content = json.loads((tmp_path / "train" / "_annotations.coco.json").read_text())
    content["images"][1]["file_name"] = "1.png"
    listed(tmp_path, content)
    index = load_split(tmp_path, "train")
    assert (len(index), index.labels.tolist(), index.labelled) == (1, [0, 1], None)


@pytest.mark.parametrize("lists_too", [True, False], ids=["lists-too", "boxes-only"])
def test_category_ids_that_are_off_by_one_in_the_lists_too(tmp_path, lists_too: bool):
    write(tmp_path, {1: ["a"], 2: ["b"], 3: ["c"]}, ["a", "b", "c"])
    content = json.loads((tmp_path / "train" / "_annotations.coco.json").read_text())
    for number, row in enumerate(content["categories"], 1):
        row["id"] = number
    for number, (row, image) in enumerate(zip(content["annotations"], content["images"], strict=True)):
        row["category_id"] = number
        image["labelled_category_ids"] = [number if lists_too else number + 1]
    listed(tmp_path, content)
    from conditional_detr.doctor.examine import as_written

    splits, findings = as_written(tmp_path)
    assert {finding.code for finding in findings} == {"category-unknown"}
    clean = splits["train"].clean
    assert [row["category_id"] for row in clean.annotations] == [1, 2, 3]
    assert [image["labelled"] for image in clean.images] == [{1}, {2}, {3}]


def test_doctor_joins_identical_files_in_which_other_classes_are_labelled(tmp_path, capsys):
    write(tmp_path / "set", {1: ["cat", "cat"], 2: ["dog"], 3: ["dog"]}, ["cat", "dog"], p1=[10], p2=[20], p3=[20])
    picture(1).save(tmp_path / "set" / "train" / "2.png")
    code, _, _ = run(capsys, "doctor", tmp_path / "set", "--fix", tmp_path / "fixed")
    assert code == 0
    labelled, boxes = merged_content(tmp_path / "fixed")
    assert labelled == {"1.png": None, "3.png": ["dog"]}
    assert sorted(boxes) == [("1.png", "cat"), ("1.png", "cat"), ("1.png", "dog"), ("3.png", "dog")]
    (change,) = json.loads((tmp_path / "fixed" / "changes.json").read_text())
    assert change["fix"] == "the images are joined, with the boxes of both"


def test_objects_of_unlabelled_categories_do_not_count_in_coco_metrics():
    truth, found = truth_and_detections()
    truth["annotations"].append(truth["annotations"][0] | {"id": 9, "category_id": 2})
    assert coco_metrics(truth, found).to_dict()["AP"] == pytest.approx(1)


@pytest.mark.parametrize("wrong", [7, True, "10", {"1": 1}])
def test_coco_metrics_refuse_a_list_that_is_none(wrong: object):
    truth, found = truth_and_detections()
    truth["images"][0]["labelled_category_ids"] = wrong
    with pytest.raises(DataError, match="labelled_category_ids of the image 1 must be a list of category ids"):
        coco_metrics(truth, found)


def test_a_split_with_other_labelled_classes_is_another_one_for_compare(tmp_path):
    from conditional_detr.evaluation.significance import _is_same

    first = load_split(write(tmp_path / "a", {1: ["cat"], 2: ["dog"]}, ["cat", "dog"]), "train")
    other = load_split(write(tmp_path / "b", {1: ["cat"], 2: ["dog"]}, ["cat", "dog"], p1=[10]), "train")
    assert _is_same(first, first)
    assert not _is_same(first, other)


def test_rare_classes_are_those_that_are_rare_where_they_are_labelled(tmp_path):
    from conditional_detr.data.repeat_sampling import image_fractions

    write(tmp_path, {1: ["cat"], 2: ["cat"], 3: ["cat"], 4: ["dog"]}, ["cat", "dog"], p1=[10], p2=[10], p3=[10], p4=[20])
    assert image_fractions(load_split(tmp_path, "train")).tolist() == [1, 1]


def test_folds_keep_the_lists(tmp_path):
    from conditional_detr.doctor.examine import as_written
    from conditional_detr.doctor.new_splits import folds_of

    odd = {f"p{k}": [10] for k in (1, 3, 5, 7)}
    write(tmp_path, {k: ["cat" if k % 2 else "dog"] for k in range(1, 9)}, ["cat", "dog"], **odd)
    for fold in folds_of(as_written(tmp_path)[0], 2, seed=0):
        images = [image for split in fold.values() for image in split.clean.images]
        assert {image["file_name"] for image in images if image["labelled"] == {10}} == {"1.png", "3.png", "5.png", "7.png"}


def test_a_square_image_with_a_rotation_keeps_its_boxes(tmp_path):
    """Its size does not tell when it was annotated; training takes the boxes as they are, and so do copies."""
    from conditional_detr.doctor.annotated_size import to_current_image
    from conditional_detr.doctor.image_scan import ImageScan

    assert to_current_image([1, 2, 3, 4], {"width": 50, "height": 50}, ImageScan(None, 50, 50, 6)) == [1, 2, 3, 4]


def test_lists_that_many_boxes_contradict_stop_training_and_merging(tmp_path, capsys):
    """Here they count from 0, and the categories from 1."""
    a = write(tmp_path / "a", {k: ["a" if k % 2 else "b"] for k in range(1, 15)}, ["a", "b"])
    content = json.loads((a / "train" / "_annotations.coco.json").read_text())
    content["categories"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    for row, image in zip(content["annotations"], content["images"], strict=True):
        row["category_id"] = 1 if row["image_id"] % 2 else 2
        image["labelled_category_ids"] = [0, 1]
    listed(a, content)
    with pytest.raises(DataError, match=r"7 of 14 boxes have a category that labelled_category_ids .* probably wrong"):
        load_split(a, "train")
    b = write(tmp_path / "b", {20: ["c"]}, ["c"])
    code, _, err = run(capsys, "data", "merge", a, b, tmp_path / "out")
    assert code == 2
    assert "these lists are probably wrong" in err
    code, out, _ = run(capsys, "doctor", a)
    assert code == 3
    assert "(--fix: the boxes are left out; better correct the lists)" in out


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("labeled_category_ids", "the field 'labeled_category_ids', which is not read: did you mean labelled_category_ids?"),
        ("labelledCategoryIds", "did you mean labelled_category_ids?"),
        ("neg_category_ids", "the field 'neg_category_ids' of LVIS, which is not read"),
    ],
)
def test_fields_that_are_probably_meant_are_pointed_out(tmp_path, field: str, text: str):
    write(tmp_path, {1: ["cat"], 2: ["dog"]}, ["cat", "dog"])
    content = json.loads((tmp_path / "train" / "_annotations.coco.json").read_text())
    content["images"][0][field] = [10]
    listed(tmp_path, content)
    (finding,) = load_split(tmp_path, "train").findings
    assert (finding.code, finding.severity) == ("labelled-categories", "warning")
    assert text in finding.message


def test_a_field_of_the_file_instead_of_the_images_is_pointed_out(tmp_path):
    write(tmp_path, {1: ["cat"]}, ["cat", "dog"])
    listed(tmp_path, {"labelled_category_ids": [10]})
    (finding,) = load_split(tmp_path, "train").findings
    assert "is a field of each image, not of the file" in finding.message


def test_an_empty_list_is_pointed_out(tmp_path):
    write(tmp_path, {1: ["cat"], 2: []}, ["cat", "dog"], p2=[])
    (finding,) = load_split(tmp_path, "train").findings
    assert "no class is labelled in it, so it is no example of background either" in finding.message


def test_a_class_that_no_validation_image_labels_is_a_warning_of_the_doctor(tmp_path, capsys):
    a, b = write(tmp_path / "a", {1: ["cat"]}, ["cat"]), write(tmp_path / "b", {2: ["dog"]}, ["dog"])
    write(b, {3: ["dog"]}, ["dog"], "valid")
    run(capsys, "data", "merge", a, b, tmp_path / "out")
    code, out, _ = run(capsys, "doctor", tmp_path / "out")
    assert code == 0
    assert "no image of valid labels cat: the AP of this class cannot be computed" in out


def test_a_set_of_which_many_images_cannot_be_used_is_refused(tmp_path, capsys):
    a = write(tmp_path / "a", {1: ["cat"], 2: ["cat"]}, ["cat"], p1="10", p2="10")
    b = write(tmp_path / "b", {3: ["dog"]}, ["dog"])
    code, _, err = run(capsys, "data", "merge", a, b, tmp_path / "out")
    assert code == 2
    assert f"2 of 2 images of {a} cannot be used" in err


def test_a_set_that_is_given_twice_is_refused(tmp_path, capsys):
    a = write(tmp_path / "a", {1: ["cat"]}, ["cat"])
    code, _, err = run(capsys, "data", "merge", a, f"{tmp_path}/./a", tmp_path / "out")
    assert code == 2
    assert "is given twice" in err


def test_training_on_two_sets_says_how_to_merge_them(tmp_path, capsys):
    a, b = (write(tmp_path / name, {k: [name]}, [name]) for k, name in enumerate(("a", "b")))
    code, _, err = run(capsys, "train", "--data", a, b)
    assert code == 2
    assert "to train on several data sets, merge them first: cdetr data merge A B OUT" in err


def test_evaluation_says_that_classes_are_not_labelled(tmp_path, small_model):
    from conditional_detr.evaluation.coco import evaluation_of

    write(tmp_path, {1: ["0"], 2: ["1"]}, ["0", "1", "2"], "valid", p1=[10, 30])
    assert "In 1 of 2 images only some classes are labelled." in evaluation_of(Detector(small_model), tmp_path).note


def test_lists_follow_their_classes_if_splits_number_them_differently(tmp_path, capsys):
    write(tmp_path / "set", {1: ["cat"], 2: ["cat", "dog"]}, ["cat", "dog"], p1=[10])
    write(tmp_path / "set", {3: ["dog"], 4: ["dog"]}, ["dog", "cat"], "valid", p3=[10])
    code, _, err = run(capsys, "data", "split", tmp_path / "set", tmp_path / "parts", "--valid", "0.5")
    assert code == 0, err
    train, valid = (merged_content(tmp_path / "parts", split)[0] for split in ("train", "valid"))
    assert train | valid == {"1.png": ["cat"], "2.png": None, "3.png": ["dog"], "4.png": None}
