"""Every code of the doctor: planted, found at its place, gone from the copy."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import run
from conditional_detr.config.presets import preset
from conditional_detr.data.findings import ERROR, RULES, Finding, counted
from conditional_detr.data.index import load_split
from conditional_detr.doctor.annotated_size import rotated
from conditional_detr.doctor.clean_copy import write_copy
from conditional_detr.doctor.examine import examine, is_ok
from conditional_detr.doctor.image_scan import ImageScan, near_pairs, scan_image
from conditional_detr.errors import ConfigError, DataError
from conditional_detr.factory.build import preprocessing_for

PX = (128, 96)  # width, height


def image(seed: int) -> Image.Image:
    """Blocks of random colours, so that no two look alike."""
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((16, 16, 1), dtype=np.uint8)))


def content(count: int, first: int = 0) -> dict:
    images = [{"id": i, "file_name": f"{first + i}.png", "width": PX[0], "height": PX[1]} for i in range(count)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 7, "bbox": [10, 10, 30, 40], "area": 1200, "iscrowd": 0} for i in range(count)
    ]
    return {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "thing"}]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set without faults: eleven images to learn from, three to validate on."""
    for split, number, first in (("train", 11, 0), ("valid", 3, 100)):
        (tmp_path / "d" / split).mkdir(parents=True)
        for i in range(number):
            image(first + i).save(tmp_path / "d" / split / f"{first + i}.png")
        write(tmp_path / "d", split, content(number, first))
    return tmp_path / "d"


def read(data: Path, split: str = "train") -> dict:
    return json.loads((data / split / "_annotations.coco.json").read_text())


def write(data: Path, split: str, what: dict) -> None:
    (data / split / "_annotations.coco.json").write_text(json.dumps(what))


def found(data: Path) -> list[Finding]:
    config = preset("conditional-detr-tiny").model
    return examine(data, config, preprocessing_for(config, 320))[1]


def places(findings: list[Finding]) -> set[tuple]:
    return {(f.code, f.split, f.file, f.annotation_id) for f in findings}


def copied(data: Path) -> Path:
    config = preset("conditional-detr-tiny").model
    write_copy(*examine(data, config, preprocessing_for(config, 320)), data.parent / "clean")
    return data.parent / "clean"


def test_a_clean_data_set_has_no_findings_and_its_copy_is_the_same(data):
    assert found(data) == []
    assert found(copied(data)) == []
    before, after = load_split(data, "train"), load_split(data.parent / "clean", "train")
    np.testing.assert_array_equal(before.boxes_xyxy, after.boxes_xyxy)
    assert before.image_ids.tolist() == after.image_ids.tolist()


BOXES = {  # a code and an annotation that has it
    "box-degenerate": {"bbox": [5, 5, 0, 10]},
    "box-outside": {"bbox": [300, 300, 20, 20]},
    "box-partly-outside": {"bbox": [120, 80, 50, 50]},
    "box-not-finite": {"bbox": [float("nan"), 1, 5, 5]},
    "box-duplicate": {"bbox": [10, 10, 30, 40]},
    "category-unknown": {"bbox": [1, 1, 5, 5], "category_id": 99},
    "annotation-orphan": {"bbox": [1, 1, 5, 5], "image_id": 555},
    "annotation-id-duplicate": {"bbox": [1, 1, 5, 5], "id": 2},
}


@pytest.mark.parametrize("code", BOXES)
def test_a_fault_of_an_annotation(data, code: str):
    what = read(data)
    row = {"id": 70, "image_id": 4, "category_id": 7, "area": 1, "iscrowd": 0} | BOXES[code]
    what["annotations"].append(row)
    write(data, "train", what)
    file = "_annotations.coco.json" if code == "annotation-orphan" else "4.png"
    findings = found(data)
    assert places(findings) == {(code, "train", file, row["id"])}
    assert is_ok(findings) == (RULES[code].severity != ERROR)
    assert found(copied(data)) == []
    kept = len(read(data.parent / "clean")["annotations"])
    assert kept == 11 + (code in ("box-partly-outside", "annotation-id-duplicate"))


def break_image(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:300])


IMAGES = {
    "image-unreadable": break_image,
    "image-missing": Path.unlink,
    "image-empty-file": lambda file: file.write_bytes(b""),
    "image-duplicate": lambda file: shutil.copyfile(file.with_name("3.png"), file),
    "image-leak": lambda file: shutil.copyfile(file, file.parents[1] / "valid" / "101.png"),
    "image-size": lambda file: image(50).resize((200, 100)).save(file),
}


@pytest.mark.parametrize("code", IMAGES)
def test_a_fault_of_an_image(data, code: str):
    IMAGES[code](data / "train" / "4.png")
    findings = found(data)
    expected = ("image-leak", "valid", "101.png", None) if code == "image-leak" else (code, "train", "4.png", None)
    assert places(findings) == {expected}
    assert found(copied(data)) == []
    names = [image["file_name"] for image in read(data.parent / "clean")["images"]]
    assert names == [f"{i}.png" for i in range(11) if i != 4]


def test_an_image_that_looks_like_one_of_another_split_is_a_warning(data):
    image(4).resize((64, 48)).save(data / "valid" / "101.jpg", quality=60)
    what = read(data, "valid")
    what["images"][1] |= {"file_name": "101.jpg", "width": 64, "height": 48}
    what["annotations"][1]["bbox"] = [5, 5, 15, 20]
    write(data, "valid", what)
    (finding,) = found(data)
    assert (finding.code, finding.severity, finding.file) == ("image-leak", "warning", "101.jpg")
    assert "looks nearly the same as 4.png in train" in finding.message


def test_flat_images_are_not_taken_for_each_other(tmp_path):
    for name, gray in (("a", 100), ("b", 101)):
        Image.new("RGB", PX, (gray,) * 3).save(tmp_path / f"{name}.png")
    seen = [scan_image(str(tmp_path / f"{name}.png")) for name in "ab"]
    assert near_pairs(seen[:1], seen[1:]) == []


def test_a_file_that_leaves_the_folder_is_found_and_not_read(data):
    image(60).save(data.parent / "outside.png")
    what = read(data)
    what["images"][4]["file_name"] = "../../outside.png"
    write(data, "train", what)
    assert places(found(data)) == {
        ("image-outside-folder", "train", "../../outside.png", None),
        ("image-unlisted", "train", str(data / "train"), None),
    }
    with pytest.raises(DataError, match="outside.png.*lies outside the data set's folder"):
        load_split(data, "train")
    assert found(copied(data)) == []


@pytest.mark.parametrize("written", ["xyxy", "yxhw", "normalised xywh", "normalised cxcywh"])
def test_boxes_in_another_format_are_detected_and_converted(data, written: str):
    def rewrite(x: float, y: float, w: float, h: float) -> list[float]:
        width, height = PX
        return {
            "xyxy": [x, y, x + w, y + h], "yxhw": [y, x, h, w],
            "normalised xywh": [x / width, y / height, w / width, h / height],
            "normalised cxcywh": [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height],
        }[written]  # fmt: skip

    what, rng = read(data), np.random.default_rng(0)
    true = [
        [float(v) for v in (rng.integers(60, 90), rng.integers(5, 10), rng.integers(20, 35), rng.integers(60, 80))]
        for _ in range(11)
    ]
    for row, box in zip(what["annotations"], true, strict=True):
        row["bbox"] = rewrite(*box)
    write(data, "train", what)
    findings = found(data)
    assert places(findings) == {("box-format", "train", "_annotations.coco.json", None)}
    assert f"in the format {written}" in findings[0].message
    with pytest.raises(DataError, match="in the format .*cdetr doctor"):
        load_split(data, "train")
    np.testing.assert_allclose([row["bbox"] for row in read(copied(data))["annotations"]], true, atol=1e-6)


def test_categories_that_are_doubled_or_unused(data):
    what = read(data)
    what["categories"] += [{"id": 9, "name": "thing"}, {"id": 12, "name": "ghost"}]
    what["annotations"][3]["category_id"] = 9
    write(data, "train", what)
    findings = found(data)
    assert {f.code for f in findings} == {"category-duplicate", "category-unused"}
    assert found(copied(data)) == []
    clean = read(data.parent / "clean")
    assert clean["categories"] == [{"id": 7, "name": "thing"}]
    assert {row["category_id"] for row in clean["annotations"]} == {7}


def test_objects_that_a_model_cannot_detect_are_reported(data):
    what = read(data)
    what["categories"].append({"id": 8, "name": "rare"})
    crowd = [
        {"id": 100 + i, "image_id": 2, "category_id": 7, "bbox": [i, i / 2, 1, 1], "area": 1, "iscrowd": 0} for i in range(101)
    ]
    rare = {"id": 300, "image_id": 2, "category_id": 8, "bbox": [50, 50, 30, 30], "area": 900, "iscrowd": 0}
    what["annotations"] += [*crowd, rare]
    write(data, "train", what)
    findings = {f.code: f for f in found(data)}
    assert findings.keys() == {"too-many-objects", "too-small-objects", "class-imbalance", "category-in-one-split"}
    assert "has 103 objects, but the model can detect at most 100" in findings["too-many-objects"].message
    assert findings["too-many-objects"].file == "2.png"
    assert "101 of 113 objects are narrower than 8 px" in findings["too-small-objects"].message
    assert "'rare' has 1 object in" in findings["class-imbalance"].message


def test_splits_that_are_missing_or_empty(data):
    shutil.rmtree(data / "valid")
    assert places(found(data)) == {("split-missing", "valid", None, None)}
    write(data, "train", read(data) | {"annotations": []})
    for file in (data / "train").glob("*.png"):
        file.write_text("broken")
    assert {"split-empty", "image-unreadable"} <= {f.code for f in found(data)}
    with pytest.raises(DataError, match="no image can be used"):
        copied(data)
    with pytest.raises(DataError, match="does not exist"):
        found(data.parent / "nowhere")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_from_before_an_exif_rotation_are_turned_with_the_image(data, orientation: int):
    """A red box is drawn into the stored image; after the rotation it must be where the copy's box is."""
    stored = np.zeros((PX[1], PX[0], 3), dtype=np.uint8)
    stored[20:50, 60:75] = 255
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(data / "train" / "4.png", exif=exif)
    what = read(data)
    what["annotations"][4]["bbox"] = [60, 20, 15, 30]
    write(data, "train", what)
    (finding,) = found(data)
    assert finding.code == "image-size"
    assert f"before the EXIF rotation (orientation {orientation})" in finding.message
    clean = copied(data)
    assert found(clean) == []
    index = load_split(clean, "train")
    from conditional_detr.images.decoding import decode

    bright = (decode(index.paths[4]).float().mean(0) > 128).nonzero()
    (top, left), (bottom, right) = bright.min(0).values.tolist(), bright.max(0).values.tolist()
    assert index.objects(4)[0][0].tolist() == [left, top, right + 1, bottom + 1]


def test_a_turned_box_lies_inside_its_turned_image():
    for orientation in (5, 6, 7, 8):
        x, y, w, h = rotated([0, 0, 10, 20], ImageScan(None, 96, 128, orientation))
        assert min(x, y) >= 0
        assert (x + w <= 96, y + h <= 128, w, h) == (True, True, 20, 10)


def test_the_copy_goes_into_a_new_folder_and_logs_what_it_changed(data):
    (data / "train" / "4.png").unlink()
    clean = copied(data)
    (change,) = json.loads((clean / "changes.json").read_text())
    assert (change["code"], change["file"], change["fix"]) == ("image-missing", "4.png", "the image is left out")
    with pytest.raises(ConfigError, match="the output must be a new or empty folder: .* is not empty"):
        copied(data)


def test_findings_are_counted_by_code():
    findings = [Finding("box-outside", "train", f"{i}.jpg", i, "x") for i in range(5)]
    assert counted(findings) == [
        "box-outside: 5 (0.jpg annotation 0, 1.jpg annotation 1, 2.jpg annotation 2, …): the box is left out"
    ]


def test_the_copy_keeps_valid_areas_and_computes_the_others(data):
    what = read(data)
    what["annotations"][0]["area"] = 700.5  # of its mask
    what["annotations"][1]["area"] = float("nan")
    what["annotations"][2] |= {"bbox": [120, 80, 50, 50], "area": 2500}
    what["annotations"][3] |= {"area": None, "segmentation": [[10, 10, 40, 10, 40, 50]], "caption": "kept"}
    write(data, "train", what)
    rows = read(copied(data))["annotations"]
    assert [row["area"] for row in rows[:4]] == [700.5, 1200, 8 * 16, 1200]
    assert (rows[3]["segmentation"], rows[3]["caption"]) == ([[10, 10, 40, 10, 40, 50]], "kept")


def test_the_area_of_a_converted_box_is_its_own(data):
    what = read(data)
    for row in what["annotations"]:
        row |= {"bbox": [v / side for v, side in zip(row["bbox"], PX * 2, strict=True)], "area": 0.098}
    write(data, "train", what)
    assert [row["area"] for row in read(copied(data))["annotations"]] == pytest.approx([1200] * 11)


def test_boxes_of_an_image_that_was_resized_since_are_resized_with_it(data):
    image(4).resize((64, 48)).save(data / "train" / "4.png")
    (finding,) = found(data)
    assert (finding.code, finding.file, finding.fix) == ("image-size", "4.png", "its boxes are resized too")
    clean = copied(data)
    assert found(clean) == []
    np.testing.assert_allclose(load_split(clean, "train").objects(4)[0], [[5, 5, 20, 25]])


def test_of_two_same_images_the_one_with_boxes_stays(data):
    shutil.copyfile(data / "train" / "4.png", data / "train" / "2.png")
    what = read(data)
    what["annotations"] = [row for row in what["annotations"] if row["image_id"] != 2]
    write(data, "train", what)
    (finding,) = found(data)
    assert finding.file == "2.png"
    assert "is the same file as 4.png, which has 1 box; this one has 0" in finding.message
    assert "4.png" in [image["file_name"] for image in read(copied(data))["images"]]


def test_one_id_for_two_images_leaves_out_both(data):
    """As in merged data sets: the boxes cannot be assigned to one of the images."""
    what = read(data)
    what["images"][5]["id"] = 4
    write(data, "train", what)
    findings = found(data)
    assert places(findings) == {("image-duplicate", "train", f"{i}.png", None) for i in (4, 5)} | {
        ("annotation-orphan", "train", "_annotations.coco.json", 5)
    }
    assert not is_ok(findings)
    clean = copied(data)
    assert found(clean) == []
    assert {4, 5}.isdisjoint(int(Path(image["file_name"]).stem) for image in read(clean)["images"])
    assert len(load_split(data, "train").missing) == 2


def test_category_ids_that_are_off_by_one_are_detected_and_shifted(data):
    what = read(data)
    what["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for i, row in enumerate(what["annotations"]):
        row["category_id"] = i % 2
    write(data, "train", what)
    write(data, "valid", read(data, "valid") | {"annotations": []})
    first = found(data)[0]
    assert (first.code, first.file, first.fix) == ("category-unknown", "_annotations.coco.json", "+1 is added to all ids")
    with pytest.raises(DataError, match="one list counts from 0, the other from 1"):
        load_split(data, "train")
    assert [row["category_id"] for row in read(copied(data))["annotations"]] == [1 + i % 2 for i in range(11)]


def test_unusual_characters_and_ids_can_be_printed_and_copied(data, capsys):
    """Halves of characters in names and fields, ids that JSON has no word for, lines broken within names."""
    what = read(data)
    what["images"].append({"id": 50, "file_name": "\ud83d.png", "width": 5, "height": 5})
    what["images"].append({"id": 51, "file_name": "a\nb.png", "width": 5, "height": 5})
    what["annotations"][0]["caption"] = "\ud83d oh"
    what["annotations"].append({"id": float("nan"), "image_id": 1, "category_id": 7, "bbox": ["\ud83d"]})
    what["annotations"].append({"id": "\ud83d", "image_id": 1, "category_id": 7, "bbox": None})
    write(data, "train", what)
    code, out, _ = run(capsys, "doctor", data, "--json")
    assert code == 3
    rows = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["findings"]
    assert {row["code"] for row in rows} == {"image-missing", "box-not-finite"}
    code, out, _ = run(capsys, "doctor", data)
    assert len([line for line in out.splitlines() if line.startswith("error")]) == 4
    assert found(copied(data)) == []


def test_a_data_set_without_objects_keeps_its_classes(data):
    for split in ("train", "valid"):
        write(data, split, read(data, split) | {"annotations": []})
    assert {f.code for f in found(data)} == {"split-empty"}
    assert {f.code for f in found(copied(data))} == {"split-empty"}
    assert read(data.parent / "clean")["categories"] == [{"id": 7, "name": "thing"}]


def test_converting_keeps_classes_without_objects(data, capsys):
    what = read(data)
    what["categories"].append({"id": 8, "name": "ghost"})
    write(data, "train", what)
    assert run(capsys, "data", "convert", data, data.parent / "c")[0] == 0
    assert [c["name"] for c in read(data.parent / "c")["categories"]] == ["thing", "ghost"]


def test_images_of_one_name_in_two_folders_are_both_copied(data):
    (data / "train" / "more").mkdir()
    image(70).save(data / "train" / "more" / "4.PNG")
    what = read(data)
    what["images"].append({"id": 70, "file_name": "more\\4.PNG", "width": PX[0], "height": PX[1]})  # as Windows writes it
    what["annotations"].append({"id": 70, "image_id": 70, "category_id": 7, "bbox": [1, 2, 30, 40]})
    write(data, "train", what)
    assert found(data) == []
    clean = copied(data)
    assert len({image["file_name"].lower() for image in read(clean)["images"]}) == 12
    from conditional_detr.images.decoding import decode

    index = load_split(clean, "train")
    assert decode(index.paths[-1]).equal(decode(image(70)))


def test_leaks_between_all_splits_are_found_also_behind_other_ones(data):
    (data / "test").mkdir()
    shutil.copyfile(data / "train" / "4.png", data / "test" / "x.png")  # the same file
    image(4).save(data / "train" / "5.png", compress_level=1)  # the same image, another file
    image(5).save(data / "test" / "y.png")
    images = [{"id": i, "file_name": name, "width": PX[0], "height": PX[1]} for i, name in enumerate(("x.png", "y.png"))]
    box = {"category_id": 7, "bbox": [1, 1, 50, 50]}
    write(data, "test", content(0) | {"images": images, "annotations": [box | {"id": i, "image_id": i} for i in range(2)]})
    leaks = [(f.severity, f.file, f.message.rpartition("as ")[2]) for f in found(data) if f.code == "image-leak"]
    assert ("error", "x.png", "4.png in train") in leaks
    assert ("warning", "x.png", "5.png in train") in leaks


def test_wrong_annotated_sizes_are_not_used_to_resize_boxes(data):
    """Boxes outside of the sizes that are said, inside of the images: nothing is resized, the images are left out."""
    what = read(data)
    for image in what["images"]:
        image |= {"width": PX[0] // 2, "height": PX[1] // 2}
    what["annotations"][3]["bbox"] = [70, 60, 40, 30]
    write(data, "train", what)
    codes = {(f.code, f.fix) for f in found(data)}
    assert ("image-size", "the image is left out") in codes
    assert not any("resized" in fix for _, fix in codes)


def test_a_class_that_another_split_spells_otherwise_is_a_warning_with_its_name(data):
    for split, name in (("train", "traffic_light"), ("valid", "Traffic light ")):
        what = read(data, split)
        what["categories"].append({"id": 8, "name": name})
        what["annotations"][0]["category_id"] = 8
        write(data, split, what)
    findings = [f for f in found(data) if f.code == "category-in-one-split"]
    assert is_ok(findings)
    assert [(f.split, f.message) for f in findings] == [
        (
            "valid",
            "the class 'Traffic light ' has 1 object in valid but none in train: training cannot learn it, so its AP is 0. "
            "train has 'traffic_light': are they the same class?",
        ),
        (
            "train",
            "the class 'traffic_light' has 1 object in train but none in valid: its AP cannot be computed. valid has "
            "'Traffic light ': are they the same class?",
        ),
    ]


def test_the_doctor_counts_boxes_as_training_does(data, capsys):
    what = read(data)
    what["annotations"][0]["bbox"] = [5, 5, 0, 10]
    what["annotations"][1]["iscrowd"] = 1
    what["annotations"][2]["image_id"] = 555
    what["images"][10]["id"] = 9  # two images with one id
    write(data, "train", what)
    code, out, _ = run(capsys, "doctor", data)
    index = load_split(data, "train")
    assert code == 3
    line = (
        "9 images, 6 boxes, 1 class; 5 boxes left out (1 box-degenerate, 2 annotation-orphan, 1 marked as crowd, "
        "1 in images that are left out); 3 images without boxes"
    )
    assert str(index.summary) == line
    assert f"train: {line}" in out
    assert out.split("valid  COCO")[0].split()[-1] == "6"
