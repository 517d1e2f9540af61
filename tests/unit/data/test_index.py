import json
from pathlib import Path

import numpy as np
import pytest

from conditional_detr.data.discovery import find_source
from conditional_detr.data.index import Category, as_id, load_split, match_categories
from conditional_detr.errors import DataError


def content(**changes: object) -> dict:
    base = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 50},
            {"id": 3, "file_name": "b.jpg", "width": 40, "height": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 5, "name": "cat"}],
    }  # fmt: skip
    return {**base, **changes}


def write(folder: Path, what: object, split: str = "train") -> Path:
    (folder / split).mkdir(parents=True, exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        (folder / split / name).write_bytes(b"is looked for, not opened")
    file = folder / split / "_annotations.coco.json"
    file.write_text(what if isinstance(what, str) else json.dumps(what))
    return file


def test_ids_become_contiguous_indices_and_are_kept(tmp_path):
    write(tmp_path, content())
    index = load_split(tmp_path, "train")
    assert index.categories == [Category(5, "cat"), Category(90, "dog")]
    assert index.image_ids.tolist() == [7, 3]
    boxes, labels = index.objects(1)
    assert boxes.tolist() == [[1, 2, 11, 22]]
    assert labels.tolist() == [1]
    assert index.objects(0)[1].tolist() == [0]
    assert index.report == []


def test_images_without_objects_stay(tmp_path):
    write(tmp_path, content(annotations=[]))
    index = load_split(tmp_path, "train")
    assert len(index) == 2
    assert index.objects(0)[0].shape == (0, 4)


def test_what_cannot_be_used_is_left_out_counted_and_named(tmp_path):
    rows = [
        {"bbox": [10, 10, 0, 5]}, {"bbox": [200, 10, 5, 5]}, {"bbox": [float("nan"), 1, 2, 3]}, {"bbox": [1, 2, 3]},
        {"bbox": [90, 40, 50, 50]}, {"bbox": [1, 1, 5, 5], "image_id": 99}, {"bbox": [1, 1, 5, 5], "category_id": 1},
        {"bbox": [1, 1, 5, 5], "iscrowd": 1},
    ]  # fmt: skip
    annotations = [{"id": i, "image_id": 7, "category_id": 5, **row} for i, row in enumerate(rows)]
    write(tmp_path, content(annotations=annotations))
    index = load_split(tmp_path, "train")
    assert index.boxes_xyxy.tolist() == [[90, 40, 100, 50]]
    report = "\n".join(index.report)
    for text in (
        "box-degenerate: 1 (a.jpg annotation 0): the box is left out", "box-outside: 1 (a.jpg annotation 1)",
        "box-not-finite: 2 (a.jpg annotation 2, a.jpg annotation 3)",
        "box-partly-outside: 1 (a.jpg annotation 4): the box is clipped",
        "annotation-orphan: 1 (_annotations.coco.json annotation 5)", "category-unknown: 1 (a.jpg annotation 6)",
    ):  # fmt: skip
        assert text in report


def test_the_classic_layout_is_found(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content()))
    place = find_source(tmp_path, "valid").location
    assert place.file.name == "instances_val2017.json"
    assert place.images == tmp_path / "val2017"


def test_val_is_another_word_for_valid(tmp_path):
    write(tmp_path, content(), "val")
    assert len(load_split(tmp_path, "valid")) == 2


def test_a_missing_split_names_those_that_are_there(tmp_path):
    write(tmp_path, content())
    with pytest.raises(
        DataError, match=r"has no split 'test'.*It has: train.* --test 0.1` makes a test split. Then train again"
    ):
        load_split(tmp_path, "test")
    with pytest.raises(DataError, match=r"is not a folder"):
        load_split(tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none of the supported layouts was found there"):
        load_split(tmp_path / "empty", "train")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "must hold a JSON object, not list"),
        ({"images": []}, "'annotations' must be a list of JSON objects"),
        (content(images=[]), "lists no images"),
        (content(categories=[]), "has no categories"),
        (content(categories=[{"id": 1}]), "must have an integer 'id' and a 'name'"),
        (
            content(images=[{"id": 1, "file_name": "a.jpg", "width": 0, "height": 5}]),
            "has no size in _annotations.coco.json, and the image file cannot be read",
        ),
        (content(images=[{"id": None, "file_name": "a.jpg"}]), "must have an 'id' (an integer or a string)"),
        (content(images=[{"id": 1, "file_name": "."}]), ".: is not a file"),
        (content(images=[{"id": 1, "file_name": "c.jpg", "width": 5, "height": 5}]), "c.jpg: cannot be opened"),
        (
            content(images=[{"id": 1, "file_name": "../../a.jpg", "width": 5, "height": 5}]),
            "lies outside the data set's folder",
        ),
    ],
)
def test_a_file_that_is_no_coco_is_refused_whole(tmp_path, what: object, text: str):
    data = tmp_path / "data"
    write(data, what)
    with pytest.raises(DataError) as caught:
        load_split(data, "train")
    assert text in str(caught.value)
    assert "_annotations.coco.json" in str(caught.value)


def test_a_file_of_absurd_size_is_refused_unread(tmp_path):
    file = write(tmp_path, content())
    with file.open("r+b") as opened:
        opened.truncate(2**33)  # a hole: no disk is taken
    with pytest.raises(DataError, match="must not be larger than 4294967296 bytes: it has 8589934592"):
        load_split(tmp_path, "train")


def test_a_path_that_leaves_the_split_but_not_the_data_set_is_fine(tmp_path):
    images = [{"id": 7, "file_name": "../images/a.jpg", "width": 10, "height": 10}]
    write(tmp_path, content(images=images, annotations=[]))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"is looked for, not opened")
    assert load_split(tmp_path, "train").paths[0].endswith("images/a.jpg")


def test_boxes_are_in_flat_arrays(tmp_path):
    write(tmp_path, content())
    index = load_split(tmp_path, "train")
    assert index.boxes_xyxy.dtype == np.float32
    assert index.first.tolist() == [0, 1, 2]


def test_classes_are_matched_by_name_and_by_id_only_where_they_have_no_names():
    categories = [Category(5, "cat"), Category(90, "dog")]
    assert match_categories(["dog", "cow", "cat"], [1, 2, 3], categories, "x") == {0: 90, 2: 5}
    assert match_categories(["0", "1"], [90, 5], categories, "x") == {0: 90, 1: 5}
    with pytest.raises(DataError, match=r"the model has cats; the data has cat, dog. If .* set the model's class_names"):
        match_categories(["cats"], [5], categories, "x")


def test_ids_that_a_tool_wrote_as_fractions_or_words_are_read(tmp_path):
    base = content()
    rows = [{**row, "image_id": float(row["image_id"]), "category_id": str(row["category_id"])} for row in base["annotations"]]
    write(tmp_path, content(annotations=rows))
    index = load_split(tmp_path, "train")
    assert index.labels.tolist() == [0, 1]
    assert index.report == []
    odd = [as_id(value) for value in (7, 7.0, "7", 2**53 + 1, 7.5, "x", None, True, [7], 2**70, float("nan"))]
    assert odd == [7, 7, 7, 2**53 + 1, None, None, None, None, None, None, None]


def test_a_folder_of_images_may_be_a_link_to_elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "elsewhere" / name).write_bytes(b"is looked for, not opened")
    data = tmp_path / "data"
    (data / "annotations").mkdir(parents=True)
    (data / "val2017").symlink_to(tmp_path / "elsewhere")
    (data / "annotations" / "instances_val2017.json").write_text(json.dumps(content()))
    assert len(load_split(data, "valid")) == 2


@pytest.mark.parametrize(
    "ids",
    [
        ["1_11", "11_1"], ["0000001_02999", "000000102999"], ["ä", "a"], ["7", "07"], ["1e1", "10"], ["١", "1"], [" 7", "7"],
        [2**70, 2**70 + 1], ["8519a9f2-0b75-5708-926c-9b5271befa04", 3],
    ],
)  # fmt: skip
def test_image_ids_that_are_written_differently_are_different(tmp_path, ids: list):
    """An id may be any text or number. Inside, images have numbers; what leaves the library has the ids of the file."""
    images = [
        {"id": id_, "file_name": name, "width": 50, "height": 50} for id_, name in zip(ids, ("a.jpg", "b.jpg"), strict=True)
    ]
    rows = [{"id": i, "image_id": id_, "category_id": 5, "bbox": [i, i, 9, 9]} for i, id_ in enumerate(ids)]
    write(tmp_path, content(images=images, annotations=rows))
    index = load_split(tmp_path, "train")
    assert (len(index), index.report) == (2, [])
    assert index.written_ids == ids
    assert len(set(index.image_ids.tolist())) == 2
    assert [index.objects(i)[0][0, 0] for i in range(2)] == [0, 1]
    assert index.without({0}).written_ids == ids[1:]


@pytest.mark.parametrize("other", [7, 7.0, "7", "7.0"])
def test_an_integer_is_one_id_however_it_is_written(tmp_path, other):
    rows = [{"id": 1, "image_id": other, "category_id": 90, "bbox": [1, 2, 10, 20]}]
    write(tmp_path, content(annotations=rows))
    index = load_split(tmp_path, "train")
    assert (len(index.objects(0)[0]), index.report) == (1, [])


def test_names_that_nothing_can_draw_are_made_printable(tmp_path):
    categories = [{"id": 1, "name": "a\ud83d"}, {"id": 2, "name": "b\x00c\td"}, {"id": 3, "name": "Zelle ü 數"}]
    write(tmp_path, json.dumps(content(categories=categories, annotations=[])))
    assert [c.name for c in load_split(tmp_path, "train").categories] == ["a�", "b�c d", "Zelle ü 數"]


def test_an_index_without_some_images_is_the_index_of_the_others(digits_folder):
    whole = load_split(digits_folder, "train")
    rest = whole.without({0, 4, len(whole) - 1})
    kept = [i for i in range(len(whole)) if i not in (0, 4, len(whole) - 1)]
    assert rest.paths == [whole.paths[i] for i in kept]
    for new, old in enumerate(kept):
        for ours, theirs in zip(rest.objects(new), whole.objects(old), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    truth = rest.ground_truth()
    assert [image["id"] for image in truth["images"]] == rest.image_ids.tolist()
    assert len(truth["annotations"]) == len(rest.labels)
    assert whole.without(()) is whole
    with pytest.raises(DataError, match="none of the 12 images listed in .* can be used"):
        whole.without(range(12))


def test_objects_of_an_image_that_is_listed_twice_belong_together(tmp_path):
    base = content()
    again = {"id": 8, "file_name": "a.jpg", "width": 100, "height": 50}
    row = {"id": 9, "image_id": 8, "category_id": 90, "bbox": [5, 5, 9, 9], "area": 81, "iscrowd": 0}
    write(tmp_path, content(images=[*base["images"], again], annotations=[*base["annotations"], row]))
    index = load_split(tmp_path, "train")
    assert [len(index.objects(i)[1]) for i in range(2)] == [2, 1]
    assert sorted(row["image_id"] for row in index.ground_truth()["annotations"]) == [3, 7, 7]
    assert index.report == ["image-duplicate: 1 (a.jpg): the later image is left out"]


def test_crowds_are_crowds_however_they_are_written(tmp_path):
    rows = [
        {"id": i, "image_id": 7, "category_id": 5, "bbox": [i, 0, 5, 5], "iscrowd": value}
        for i, value in enumerate([0, "0", False, None, 1, "1", True])
    ]
    write(tmp_path, content(annotations=rows))
    index = load_split(tmp_path, "train")
    assert len(index.objects(0)[1]) == 4
    assert [row["iscrowd"] for row in index.ground_truth()["annotations"]] == [0, 0, 0, 0, 1, 1, 1]


def test_the_same_box_of_another_category_or_a_crowd_is_another_one(tmp_path):
    row = {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1, 1, 5, 5]}
    write(tmp_path, content(annotations=[row, row | {"category_id": 90}, row | {"iscrowd": 1}, row | {"id": 4}]))
    index = load_split(tmp_path, "train")
    assert len(index.objects(0)[1]) == 2
    assert [line.split(" (")[0] for line in index.report if "box" in line] == ["box-duplicate: 1"]


def test_a_box_is_cut_at_all_four_edges(tmp_path):
    row = {"id": 1, "image_id": 7, "category_id": 5, "bbox": [-10, -20, 300, 300]}
    write(tmp_path, content(annotations=[row]))
    assert load_split(tmp_path, "train").objects(0)[0].tolist() == [[0, 0, 100, 50]]


def test_an_image_without_a_size_has_its_own(tmp_path):
    from PIL import Image

    base = content()
    del base["images"][0]["width"]
    write(tmp_path, base)
    Image.new("RGB", (100, 50)).save(tmp_path / "train" / "a.jpg")
    index = load_split(tmp_path, "train")
    assert index.sizes_hw[0].tolist() == [50, 100]
    assert index.report == ["image-size: 1 (a.jpg): the size in the image file is used"]
    assert index.missing == []


def test_the_truth_is_what_was_read_whatever_becomes_of_the_files(tmp_path):
    """With the boxes that training leaves out, as COCO counts them, and merged categories under one id."""
    twice = [{"id": 5, "name": "cat"}, {"id": 90, "name": "dog"}, {"id": 95, "name": "dog"}]
    rows = [
        {"id": 1, "image_id": 3, "category_id": 95, "bbox": [1, 2, 10, 20], "area": 150.5, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": ["90", 40, 50, 50], "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 5, "bbox": [1, 1, 0, 5]},
    ]
    file = write(tmp_path, content(annotations=rows, categories=twice))
    index = load_split(tmp_path, "train")
    file.unlink()
    truth = index.ground_truth()
    assert [image["id"] for image in truth["images"]] == [7, 3]
    assert truth["annotations"] == [
        {"image_id": 3, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 150.5, "iscrowd": 0},
        {"image_id": 7, "category_id": 5, "bbox": [90, 40, 50, 50], "area": 2500, "iscrowd": 0},
        {"image_id": 7, "category_id": 5, "bbox": [1, 1, 0, 5], "area": 0, "iscrowd": 0},
    ]
    assert [row["image_id"] for row in index.without({0}).ground_truth()["annotations"]] == [3]
