"""Images that lie in the folder of a split, but that no annotation file names, are counted."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from commands import run
from conditional_detr.data.index import load_split

SIZE = (60, 40)
BOX = {"category_id": 1, "bbox": [5, 5, 20, 20]}


def coco(file: Path, names: list[str]) -> None:
    images = [{"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for i, name in enumerate(names)]
    boxes = [BOX | {"id": i, "image_id": i} for i in range(len(names))]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", SIZE).save(folder / name)


def roboflow(root: Path) -> Path:
    images(root / "train", "a.png", "b.png", "c.png")
    coco(root / "train" / "_annotations.coco.json", ["a.png", "b.png"])
    return root / "train"


def common_folder(root: Path) -> Path:
    """Two splits with one folder of images."""
    images(root / "images", "a.png", "b.png", "c.png")
    coco(root / "annotations" / "instances_train.json", ["a.png"])
    coco(root / "annotations" / "instances_val.json", ["images/b.png"])
    return root / "images"


def voc(root: Path) -> Path:
    images(root / "JPEGImages", "a.jpg", "b.jpg", "c.jpg")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name in "ab":
        box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (root / "ImageSets" / "Main" / "cat_val.txt").write_text("b -1\n")
    return root / "JPEGImages"


def voc_without_lists(root: Path) -> Path:
    folder = voc(root)
    shutil.rmtree(root / "ImageSets")
    return folder


def imagefolder(root: Path) -> Path:
    images(root / "train", "a.png", "c.png")
    row = {"file_name": "a.png", "objects": {"bbox": [[5, 5, 20, 20]], "categories": ["cat"]}}
    (root / "train" / "metadata.jsonl").write_text(json.dumps(row))
    return root / "train"


def yolo_lists(root: Path) -> Path:
    images(root / "images", "a.png", "b.png", "c.png")
    (root / "labels").mkdir()
    for name in "abc":
        (root / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2")
    (root / "train.txt").write_text("images/a.png\n")
    (root / "val.txt").write_text("./images/b.png\n")
    (root / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat]")
    return root / "images"


@pytest.mark.parametrize("write", [roboflow, common_folder, voc, voc_without_lists, imagefolder, yolo_lists])
def test_an_image_that_is_in_no_list_is_counted(tmp_path, capsys, write):
    folder = write(tmp_path)
    split = "all" if write is voc_without_lists else "train"
    (finding,) = [each for each in load_split(tmp_path, split).findings if each.code == "image-unlisted"]
    assert (finding.severity, finding.file) == ("warning", str(folder))
    assert finding.message.startswith("1 image is in the folder but not in the annotations, and not used, e.g. ")
    assert finding.message.endswith("c.jpg" if "voc" in write.__name__ else "c.png")
    (folder / "c.png").unlink(missing_ok=True)
    (folder / "c.jpg").unlink(missing_ok=True)
    assert [each.code for each in load_split(tmp_path, split).findings if each.code == "image-unlisted"] == []


def test_listed_images_are_listed_however_they_are_spelled(tmp_path):
    """Folders, case, Unicode forms, percent signs; and a mask of the same name is no image."""
    images(tmp_path / "images", "A.png", "u\u0308.png", "one two.png", "d.png")
    images(tmp_path / "images" / "masks", "A.tif")
    coco(tmp_path / "annotations" / "instances_train.json", ["C:\\data\\a.PNG", "\u00fc.png", "one%20two.png", "d.png"])
    index = load_split(tmp_path, "train")
    assert len(index) == 4
    assert {finding.code for finding in index.findings} == {"image-spelling"}


def test_training_and_the_doctor_count_unlisted_images(tmp_path, capsys):
    roboflow(tmp_path)
    shutil.copytree(tmp_path / "train", tmp_path / "valid")
    images(tmp_path / "train", "e.png")
    said = "2 images are in the folder but not in the annotations, and not used"
    run(capsys, "doctor", tmp_path, "--json")
    _, out, _ = run(capsys, "doctor", tmp_path)
    assert said in " ".join(out.split())
    settings = ("--model", "conditional-detr-tiny", "--epochs", 1, "--imgsz", 64, "--output", tmp_path / "run")
    code, out, err = run(capsys, "train", "--data", tmp_path, *settings)
    assert code == 0, err
    assert said in " ".join(out.split())
