"""Layouts recognised by their content, names of splits, and YAML files outside the folder of the data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import run
from conditional_detr.data.discovery import sources
from conditional_detr.data.formats import yolo_description
from conditional_detr.data.index import load_split
from conditional_detr.data.splits.names import split_in, usual_split
from conditional_detr.errors import DataError

SIZE = (60, 40)
BOX = {"category_id": 5, "bbox": [3, 4, 20, 10]}


def write_coco(file: Path, images: Path, before: str = "", number: int = 3) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(number):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)).save(images / f"{i}.png")
        rows.append({"id": i, "file_name": f"{before}{i}.png", "width": SIZE[0], "height": SIZE[1]})
    boxes = [BOX | {"id": i, "image_id": i} for i in range(number)]
    file.write_text(json.dumps({"images": rows, "annotations": boxes, "categories": [{"id": 5, "name": "cat"}]}))


def write_yolo(root: Path, images: str = "images/{}", number: int = 3) -> None:
    for split in ("train", "val"):
        folder = root / images.format(split)
        write_coco(root / "x.json", folder, number=number)
        (root / "x.json").unlink()
        for i in range(number):
            label = Path(str(folder / f"{i}.txt").replace("/images/", "/labels/"))
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 0.5 0.5 0.2 0.2\n")


@pytest.mark.parametrize(
    ("file", "images", "before", "split"),
    [
        ("annotations/instances_default.json", "images/default", "", "default"),
        ("annotations/instances_Train.json", "images/Train", "", "train"),
        ("annotations/instances_train.json", "images", "", "train"),
        ("result.json", "images", "images/", "all"),
        ("labels.json", "data", "", "all"),
        ("annotations/train.json", "train", "", "train"),
        ("annotations/coco_val_v2.json", "pictures", "pictures/", "valid"),
        ("train/annotations.json", "train", "", "train"),
        ("Dev/coco.json", "Dev/images", "images/", "valid"),
        ("training.json", "pictures", "", "train"),
        ("_annotations.coco.json", ".", "", "all"),
        ("export.JSON", "deep/down", "", "all"),
        ("images/train/coco.json", "images/train", "", "train"),
        ("annotations/coco/val.json", "val", "", "valid"),
    ],
)
def test_a_coco_file_is_known_by_what_it_holds(tmp_path, file: str, images: str, before: str, split: str):
    write_coco(tmp_path / file, tmp_path / images, before)
    (tmp_path / "package.json").write_text('{"images": 3}')
    (tmp_path / "empty.json").touch()
    assert {source.format for source in sources(tmp_path).values()} == {"COCO"}
    index = load_split(tmp_path, split)
    assert (len(index), len(index.labels), index.report) == (3, 3, [])
    missing = "valid" if split == "train" else "train"
    with pytest.raises(DataError, match=rf"has no split '{missing}'. It has: {split}. `cdetr data split .* --valid 0.2`"):
        load_split(tmp_path, missing)


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("train", "train"), ("Train", "train"), ("TRAINING", "train"), ("train2017", "train"), ("VAL", "valid"),
        ("dev", "valid"),
        ("validation", "valid"), ("Test", "test"), ("testing", "test"), ("trainval", None), ("default", None), ("", None),
        ("dog_train", None),
    ],
)  # fmt: skip
def test_names_of_splits(name: str, usual: str | None):
    assert usual_split(name) == usual


def test_a_file_name_may_name_one_split():
    names = ("coco_train_v2", "instances_val2017", "train_and_test", "trained")
    assert [split_in(name) for name in names] == ["train", "valid", None, None]


@pytest.mark.parametrize("names", [("Train", "VAL"), ("training", "dev"), ("TRAIN2017", "Validation")])
def test_splits_are_found_under_their_other_names(tmp_path, names: tuple[str, str]):
    for name in names:
        write_coco(tmp_path / name / "_annotations.coco.json", tmp_path / name)
    assert [len(load_split(tmp_path, split)) for split in ("train", "valid", names[0])] == [3, 3, 3]


def test_labels_of_a_tool_without_a_yaml_file(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "classes.txt").write_text("on\n012\n")
    assert [c.name for c in load_split(tmp_path, "valid").categories] == ["on", "012"]
    shutil.copytree(tmp_path / "images" / "train", tmp_path / "flat" / "images")
    shutil.copytree(tmp_path / "labels" / "train", tmp_path / "flat" / "labels")
    (tmp_path / "flat" / "classes.txt").write_text("on\n012\n")
    assert len(load_split(tmp_path / "flat", "all").labels) == 3
    with pytest.raises(DataError, match=r"It has: all. `cdetr data split"):
        load_split(tmp_path / "flat", "train")


@pytest.mark.parametrize(
    ("names", "read"),
    [
        ("{0: yes, 1: no, 2: off}", ["yes", "no", "off"]),
        ("[010, 1e3, 12:30:00]", ["010", "1e3", "12:30:00"]),
        ("[No, null, 2024-01-05]", ["No", "null", "2024-01-05"]),
        ("[~, True, 0x1F, 1_000, .inf, 'on', \"y\"]", ["~", "True", "0x1F", "1_000", ".inf", "on", "y"]),
        ("\n  - no\n  - NaN\n  - 02146", ["no", "NaN", "02146"]),
        ("{08: a, 09: b, 010: c}", ["a", "b", "c"]),
        ("&x [yes, no]\nother: *x", ["yes", "no"]),
    ],
)
def test_class_names_are_texts_as_they_are_written(tmp_path, names: str, read: list[str]):
    file = tmp_path / "data.yaml"
    file.write_text(f"train: images/train\nnc: 3\nnames: {names}\n")
    found = yolo_description.class_names(yolo_description.described(file, is_named=False))
    assert list(found.values()) == read
    assert list(found) == ([8, 9, 10] if "010: c" in names else list(range(len(read))))


@pytest.mark.parametrize("names", ["[a, ]\nnames2: x", "{a: 0}", "[a, [b]]", "{0: }", "[]", "yes", "{1_0: a}"])
def test_names_that_are_no_list_are_refused(tmp_path, names: str):
    file = tmp_path / "data.yaml"
    file.write_text(f"train: images/train\nnames: {names}\n")
    about = yolo_description.described(file, is_named=False)
    if names.startswith("[a, ]"):
        assert yolo_description.class_names(about) == {0: "a"}
        return
    with pytest.raises(DataError, match="'names' must be a list of class names"):
        yolo_description.class_names(about)


def test_folders_whose_names_yaml_takes_for_something_else(tmp_path):
    write_yolo(tmp_path / "012")
    (tmp_path / "012" / "images" / "train").rename(tmp_path / "012" / "images" / "2024-01-05")
    (tmp_path / "012" / "labels" / "train").rename(tmp_path / "012" / "labels" / "2024-01-05")
    (tmp_path / "data.yaml").write_text("path: 012\ntrain: images/2024-01-05\nValidation: images/val\ntest: null\nnames: [a]")
    assert len(load_split(tmp_path, "train").labels) == len(load_split(tmp_path, "valid").labels) == 3
    assert set(sources(tmp_path)) == {"train", "valid"}


@pytest.mark.parametrize(
    "text", ["path: {set}\ntrain: images/train", "train: {set}/images/train", "path: ../../../set\ntrain: images/train"]
)
def test_a_yaml_file_that_the_user_names_may_lead_anywhere(tmp_path, text: str):
    """Only images and labels in the folders that it names are read."""
    write_yolo(tmp_path / "set")
    place = tmp_path / "home" / "me" / "cfg"
    place.mkdir(parents=True)
    file = place / "data.yaml"
    file.write_text(text.format(set=tmp_path / "set") + "\nnames: [cat]")
    index = load_split(file, "train")
    assert (len(index), len(index.labels), index.report) == (3, 3, [])
    with pytest.raises(DataError, match="to read it, give the YAML file itself instead of its folder"):
        load_split(place, "train")
    Image.new("RGB", SIZE).save(tmp_path / "secret.png")
    (tmp_path / "set" / "images" / "train" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="link.png' lies outside the data set's folder"):
        load_split(file, "train")


def test_a_path_that_is_not_a_folder_is_reported(tmp_path):
    write_yolo(tmp_path / "set")
    file = tmp_path / "set" / "data.yaml"
    file.write_text("path: /data/nowhere\ntrain: pictures/train\nnames: [cat]")
    with pytest.raises(DataError, match=r"pictures/train does not exist \('path: /data/nowhere' in .* is not a folder\)"):
        load_split(file, "train")


def test_a_list_of_images_may_spell_them_otherwise(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "train.txt").write_text(
        "data/images/train/0.PNG\n/home/x/images/train/1.png\n./images/train/2.png\nimages/train/._2.png\n"
    )
    (tmp_path / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [cat]")
    index = load_split(tmp_path, "train")
    assert [Path(path).name for path in index.paths] == ["0.png", "1.png", "2.png"]
    assert len(index.labels) == 3
    assert index.report == [
        f"image-spelling: 1 ({tmp_path}/train.txt): nothing is changed; 2 files with another spelling are read"
    ]
    (tmp_path / "train.txt").write_text("somewhere/0.png\nimages/train/1.png\n")
    index = load_split(tmp_path, "train")  # images/val/0.png is an image of another split
    assert index.paths == [str(tmp_path / "images" / "train" / name) for name in ("0.png", "1.png")]
    assert [finding.code for finding in index.findings] == ["image-spelling", "image-unlisted"]
    shutil.copytree(tmp_path / "images" / "train", tmp_path / "more" / "train")
    finding = load_split(tmp_path, "train").findings[0]
    assert finding.code == "image-missing"
    assert f"several files match: {tmp_path}/images/train/0.png, {tmp_path}/more/train/0.png" in finding.message


def test_labels_are_found_in_another_case_and_form(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]")
    folder = tmp_path / "labels" / "train"
    (folder / "0.txt").rename(folder / "0.TXT")
    (tmp_path / "images" / "train" / "1.png").rename(tmp_path / "images" / "train" / "u\u0308.png")
    (folder / "1.txt").rename(folder / "\u00fc.txt")
    index = load_split(tmp_path, "train")
    assert (len(index.labels), index.report) == (3, [])


def test_labels_of_an_image_in_an_unsupported_format_are_not_orphans(tmp_path, capsys):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]")
    (tmp_path / "images" / "train" / "0.png").rename(tmp_path / "images" / "train" / "0.heic")
    (tmp_path / "labels" / "train" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1")
    findings = {finding.code: finding for finding in load_split(tmp_path, "train").findings}
    assert set(findings) == {"image-format", "annotation-orphan"}
    assert "1 file is not in a supported image format (.heic: 1)" in findings["image-format"].message
    assert findings["annotation-orphan"].file.endswith("gone.txt")


def test_an_image_whose_labels_cannot_be_read_is_left_out(tmp_path):
    """Its objects are there, so it must not teach that they are background."""
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]")
    (tmp_path / "labels" / "train" / "0.txt").write_bytes(b"\0\xff\0")
    (tmp_path / "labels" / "train" / "1.txt").write_text("1_1 0.5 0.5 0.2 0.2\ncat 0.5 0.5 0.2 0.2\n")
    index = load_split(tmp_path, "train")
    assert [Path(path).name for path in index.paths] == ["2.png"]
    assert index.missing == [str(tmp_path / "labels" / "train" / f"{i}.txt") for i in range(2)]
    assert "annotation-unreadable: 2" in "\n".join(index.report)


def test_a_hidden_file_is_nowhere_counted(tmp_path, capsys):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]")
    for name in (
        "images/train/._0.png",
        "labels/train/._0.txt",
        "images/train/.ipynb_checkpoints/0-checkpoint.png",
        "__MACOSX/x.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    index = load_split(tmp_path, "train")
    assert (len(index), index.report) == (3, [])
    coco = tmp_path / "coco"
    write_coco(coco / "train" / "_annotations.coco.json", coco / "train")
    write_coco(coco / "__MACOSX" / "_annotations.coco.json", coco / "__MACOSX")
    content = json.loads((coco / "train" / "_annotations.coco.json").read_text())
    content["images"].append({"id": 9, "file_name": "._0.png", "width": 5, "height": 5})
    (coco / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    assert set(sources(coco)) == {"train"}
    assert (len(load_split(coco, "train")), load_split(coco, "train").report) == (3, [])


def test_training_names_the_command_that_splits(tmp_path, capsys):
    write_coco(tmp_path / "result.json", tmp_path / "images", "images/")
    code, _, err = run(capsys, "train", "--data", tmp_path, "--epochs", "1", "--output", tmp_path / "run")
    assert code == 2
    assert f"has no split 'train'. It has: all. `cdetr data split {tmp_path} OUT --valid 0.2` divides its images" in err


@pytest.mark.parametrize(
    "text",
    [
        "path: /content/set\ntrain: /content/set/images/train\nval: /content/set/images/val\nnames: [cat]",
        "train: /kaggle/input/cells/images/train\nval: /kaggle/input/cells/images/val\nnames: [cat]",
        "path: C:\\Users\\me\\set\ntrain: images\\train\nval: images\\val\nnames: [cat]",
        "train: D:\\set\\images\\train\nval: D:\\set\\images\\val\nnames: [cat]",
        "train: ..\\set\\images\\train\nval: ..\\set\\images\\val\nnames: [cat]",
    ],
)
def test_paths_of_another_machine_mean_the_same_folders_here(tmp_path, text: str):
    write_yolo(tmp_path / "set")
    (tmp_path / "set" / "data.yaml").write_text(text)
    for split, folder in (("train", "train"), ("valid", "val")):
        index = load_split(tmp_path / "set", split)
        assert {Path(path).resolve().parent for path in index.paths} == {tmp_path / "set" / "images" / folder}
        is_absolute = "content/set/i" in text or "kaggle" in text or "D:" in text
        assert [finding.code for finding in index.findings] == ["image-spelling"] * is_absolute
        if is_absolute:
            assert f"does not exist on this machine; {tmp_path}/set/images/{folder} is read" in index.findings[0].message


def test_a_path_of_another_machine_that_fits_no_split_is_not_guessed(tmp_path):
    """`/content/other/images` would mean the images of both splits."""
    write_yolo(tmp_path / "set")
    file = tmp_path / "set" / "data.yaml"
    file.write_text("train: /content/other/images\nval: /content/more/images\nnames: [cat]")
    with pytest.raises(DataError, match="lists no images. Faults: 1 of split-missing .*/content/other/images does not exist"):
        load_split(file, "train")


def test_a_refusal_names_the_first_files_of_each_kind(tmp_path):
    write_yolo(tmp_path, number=8)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]")
    for file in (tmp_path / "labels" / "train").glob("*.txt"):
        file.write_text("0,0.5,0.5,0.2,0.2")
    with pytest.raises(DataError) as caught:
        load_split(tmp_path, "train")
    text = str(caught.value)
    assert "8 of box-not-finite (" in text
    assert f"{tmp_path}/labels/train/0.txt: line 1 must contain only numbers, not '0,0.5,0.5,0.2,0.2'" in text
    assert "7.txt" not in text


def test_a_fault_of_the_yaml_names_its_line(tmp_path):
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames:\n\t- cat\n")
    with pytest.raises(
        DataError, match=r"data.yaml is not valid YAML: found character '\\t' that cannot start any token \(line 4\)"
    ):
        load_split(tmp_path, "train")


@pytest.mark.parametrize("place", ["data/{}", "{}"])
def test_metadata_of_hugging_face_may_lie_in_the_folder_data_or_be_one_file(tmp_path, place: str):
    rows = []
    for i, split in enumerate(("train", "validation")):
        folder = tmp_path / place.format(split)
        folder.mkdir(parents=True)
        Image.new("RGB", SIZE).save(folder / f"{i}.png")
        Image.new("RGB", SIZE).save(folder / f"{i}-more.png")
        name = f"{i}.png" if "data" in place else f"{split}/{i}.png"
        row = json.dumps({"file_name": name, "objects": {"bbox": [[3, 4, 20, 10]], "categories": [f"c{i}"]}})
        if "data" in place:
            (folder / "metadata.jsonl").write_text(row)
        rows.append(row)
    if "data" not in place:
        (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    assert set(sources(tmp_path)) == {"train", "validation"}
    for i, split in enumerate(("train", "valid")):
        index = load_split(tmp_path, split)
        assert [Path(path).name for path in index.paths] == [f"{i}.png"]
        assert [category.name for category in index.categories] == ["c0", "c1"]
        assert index.labels.tolist() == [i]
        (finding,) = index.findings
        assert finding.code == "image-unlisted"


def test_one_metadata_file_without_folders_is_one_split(tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    row = {"file_name": "a.png", "objects": {"bbox": [[3, 4, 20, 10]], "categories": [0]}}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert len(load_split(tmp_path, "all")) == 1
    with pytest.raises(DataError, match="It has: all. `cdetr data split"):
        load_split(tmp_path, "train")


def test_a_folder_in_an_unknown_format_is_described(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", SIZE).save(tmp_path / "pictures" / "a.png")
    (tmp_path / "boxes.csv").write_text("a.png,1,2,3,4,cat")
    with pytest.raises(DataError, match=r"It contains the folders pictures and files \(.csv: 1, .png: 1\)$"):
        load_split(tmp_path, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="It contains nothing$"):
        load_split(tmp_path / "empty", "train")
