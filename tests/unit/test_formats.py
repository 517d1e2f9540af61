"""YOLO, Pascal VOC and imagefolder say the same as COCO; what is wrong in them is named."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from commands import run
from conditional_detr.data.coco import CocoIndex, load_split
from conditional_detr.data.sources import sources
from conditional_detr.errors import DataError

SIZE = (100, 80)  # width, height
BOXES = {  # picture → class and box x0, y0, x1, y1 px
    "a": [("dog", (10, 20, 30, 60)), ("cat", (0, 0, 100, 80))],
    "b": [],
    "c": [("cat", (5, 5, 6, 7))],
}
NAMES = ["cat", "dog"]


def pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in BOXES:
        Image.new("RGB", SIZE).save(folder / f"{name}.jpg")


def yolo(root: Path) -> None:
    for split in ("train", "valid"):
        pictures(root / split / "images")
        (root / split / "labels").mkdir()
        for name, boxes in BOXES.items():
            lines = []
            for label, (x0, y0, x1, y1) in boxes:
                box = ((x0 + x1) / 2 / SIZE[0], (y0 + y1) / 2 / SIZE[1], (x1 - x0) / SIZE[0], (y1 - y0) / SIZE[1])
                lines.append(" ".join(map(str, (NAMES.index(label), *box))))
            if lines:  # a picture without a label file has no objects
                (root / split / "labels" / f"{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n")


def voc(root: Path) -> None:
    pictures(root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for name, boxes in BOXES.items():
        tree = ElementTree.Element("annotation")
        for label, (x0, y0, x1, y1) in boxes:
            element = ElementTree.SubElement(tree, "object")
            ElementTree.SubElement(element, "name").text = label
            corners = ElementTree.SubElement(element, "bndbox")
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1), strict=True):
                ElementTree.SubElement(corners, side).text = str(value)
        ElementTree.ElementTree(tree).write(root / "Annotations" / f"{name}.xml")
    for split in ("train", "val"):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(BOXES))


def imagefolder(root: Path) -> None:
    for split in ("train", "validation"):
        pictures(root / split)
        rows = []
        for name, boxes in BOXES.items():
            objects = {
                "bbox": [[x0, y0, x1 - x0, y1 - y0] for _, (x0, y0, x1, y1) in boxes],
                "categories": [label for label, _ in boxes],
            }
            rows.append(json.dumps({"file_name": f"{name}.jpg", "objects": objects}))
        (root / split / "metadata.jsonl").write_text("\n".join(rows))


WRITERS = {"YOLO": yolo, "Pascal VOC": voc, "imagefolder": imagefolder}


def check(index: CocoIndex) -> None:
    assert [category.name for category in index.categories] == NAMES
    found = {Path(path).stem: index.objects(i) for i, path in enumerate(index.paths)}
    assert found.keys() == BOXES.keys()
    assert index.sizes_hw.tolist() == [[80, 100]] * 3
    for name, (boxes, labels) in found.items():
        assert [NAMES[label] for label in labels] == [label for label, _ in BOXES[name]]
        np.testing.assert_allclose(boxes, np.array([box for _, box in BOXES[name]]).reshape(-1, 4), atol=1e-4)
    assert index.report == []


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_says_the_same(tmp_path, name: str):
    WRITERS[name](tmp_path)
    assert {source.format for source in sources(tmp_path).values()} == {name}
    for split in ("train", "valid"):
        check(load_split(tmp_path, split))


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_converted_to_coco_folders(tmp_path, capsys, name: str):
    WRITERS[name](tmp_path / "there")
    code, out, err = run(capsys, "data", "convert", tmp_path / "there", tmp_path / "here")
    assert (code, err) == (0, "")
    assert "train: 3 pictures, 3 boxes" in out
    for split in ("train", "valid"):
        check(load_split(tmp_path / "here", split))
        assert (tmp_path / "here" / split / "_annotations.coco.json").is_file()


def test_polygons_become_their_boxes(tmp_path):
    yolo(tmp_path)
    (tmp_path / "train" / "labels" / "a.txt").write_text("1 0.1 0.25 0.3 0.25 0.3 0.75 0.2 0.5\n")
    np.testing.assert_allclose(load_split(tmp_path, "train").objects(0)[0], [[10, 20, 30, 60]], atol=1e-4)


@pytest.mark.parametrize(
    ("description", "label"),
    [
        ("path: .\ntrain: train/images\nval: valid/images\nnames: {0: cat, 1: dog}", "data.yml"),
        ("path: nowhere\ntrain: [train/images]\nval: train/list.txt\nnames: [cat, dog]", "data.yaml"),
    ],
)
def test_paths_of_yolo_are_found_as_its_users_write_them(tmp_path, description: str, label: str):
    yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / label).write_text(description)
    (tmp_path / "train" / "list.txt").write_text("\n".join(f"images/{name}.jpg" for name in BOXES))
    for split in ("train", "valid"):
        check(load_split(tmp_path, split))


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ("train: ../../../elsewhere", "leaves the folder"),
        ("names: 3\ntrain: train/images", "'names' must be a list of class names"),
        ("- a\n- b", "must hold a mapping with 'train', 'val' and 'names', not list"),
        ("a: [", "is no valid YAML"),
        ("[" * 5000, "is no valid YAML"),
        ("x: !!python/object/apply:os.system ['touch owned']", "is no valid YAML"),
        ("a: 1\n" * 300_000, "is larger than a description of a data set can be"),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path, monkeypatch, description: str, text: str):
    monkeypatch.chdir(tmp_path)
    yolo(tmp_path / "d")
    (tmp_path / "d" / "data.yaml").write_text(description)
    with pytest.raises(DataError, match=text):
        load_split(tmp_path / "d", "train")
    assert not (tmp_path / "owned").exists()


def test_lines_that_cannot_be_read_are_named(tmp_path):
    yolo(tmp_path / "y")
    (tmp_path / "y" / "train" / "labels" / "a.txt").write_text(
        "1 0.5 0.5 0.2 0.2\ndog 1 2 3 4\n1 0.5 0.5\n\n7 0.5 0.5 0.1 0.1\n"
    )
    (tmp_path / "y" / "train" / "labels" / "c.txt").write_bytes(b"\xff\xfe\x00")
    index = load_split(tmp_path / "y", "train")
    assert len(index.labels) == 1
    report = "\n".join(index.report)
    for text in (
        "a.txt, line 2 must be numbers, not 'dog 1 2 3 4'",
        "a.txt, line 3 must hold a class and four numbers",
        "c.txt cannot",
    ):
        assert text in report
    assert "category-unknown: 1" in report
    voc(tmp_path / "v")
    (tmp_path / "v" / "Annotations" / "a.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    (tmp_path / "v" / "Annotations" / "c.xml").write_text("<annotation>")
    (tmp_path / "v" / "ImageSets" / "Main" / "test.txt").write_text("d")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (tmp_path / "v" / "Annotations" / "d.xml").write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")
    report = "\n".join(load_split(tmp_path / "v", "train").report)
    assert "a.xml, object 1 must have a name and a bndbox of four numbers" in report
    assert "c.xml is no valid XML" in report
    imagefolder(tmp_path / "i")
    file = tmp_path / "i" / "train" / "metadata.jsonl"
    file.write_text(
        file.read_text() + '\n{"file_name": 3}\n{"file_name": "d.jpg", "objects": {"bbox": [1], "categories": ["cat"]}}'
    )
    report = "\n".join(load_split(tmp_path / "i", "train").report)
    assert "metadata.jsonl, line 4 must be a JSON object with a 'file_name'" in report
    assert re.search(r"image-missing: 1 \(.*d.jpg\)", report)


def test_the_doctor_reads_every_format(tmp_path, capsys):
    yolo(tmp_path)
    (tmp_path / "train" / "labels" / "c.txt").write_text("0 0.5 0.5 0 0.1\n")
    code, out, _ = run(capsys, "doctor", tmp_path, "--json")
    findings = json.loads(out)["findings"]
    assert code == 3
    assert {"box-degenerate", "image-leak"} <= {finding["code"] for finding in findings}
    (row,) = [finding for finding in findings if finding["code"] == "box-degenerate"]
    assert row["file"].endswith("train/images/c.jpg")


def test_nothing_outside_the_data_set_is_opened(tmp_path, monkeypatch, capsys):
    """A list may name any file of the machine: neither it nor its labels are read."""
    yolo(tmp_path / "a" / "b" / "d")
    pictures(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    root = tmp_path / "a" / "b" / "d"
    (root / "train.txt").write_text(f"train/images/a.jpg\n{tmp_path}/images/a.jpg\n")
    (root / "data.yaml").write_text("train: train.txt\nval: valid/images\nnames: [cat, dog]")
    opened = []
    true_open = Image.open
    monkeypatch.setattr(Image, "open", lambda file, *rest: (opened.append(str(file)), true_open(file, *rest))[1])
    with pytest.raises(DataError, match="leaves the data set's folder"):
        load_split(root, "train")
    assert f"{tmp_path}/images/a.jpg" not in opened
    code, out, _ = run(capsys, "doctor", root, "--json")
    assert code == 3
    assert "image-outside-folder" in {finding["code"] for finding in json.loads(out)["findings"]}
