"""Readers of YOLO, Pascal VOC and imagefolder: the same content as COCO, and messages about faults."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from commands import run
from conditional_detr.data.discovery import sources
from conditional_detr.data.index import SplitIndex, load_split
from conditional_detr.errors import DataError

SIZE = (100, 80)  # width, height
BOXES = {  # image → class and box x0, y0, x1, y1 px
    "a": [("dog", (10, 20, 30, 60)), ("cat", (0, 0, 100, 80))],
    "b": [],
    "c": [("cat", (5, 5, 6, 7))],
}
NAMES = ["cat", "dog"]


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in BOXES:
        Image.new("RGB", SIZE).save(folder / f"{name}.jpg")


def yolo(root: Path) -> None:
    for split in ("train", "valid"):
        write_images(root / split / "images")
        (root / split / "labels").mkdir()
        for name, boxes in BOXES.items():
            lines = []
            for label, (x0, y0, x1, y1) in boxes:
                box = ((x0 + x1) / 2 / SIZE[0], (y0 + y1) / 2 / SIZE[1], (x1 - x0) / SIZE[0], (y1 - y0) / SIZE[1])
                lines.append(" ".join(map(str, (NAMES.index(label), *box))))
            if lines:  # an image without a label file has no objects
                (root / split / "labels" / f"{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n")


def voc(root: Path) -> None:
    write_images(root / "JPEGImages")
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
        write_images(root / split)
        rows = []
        for name, boxes in BOXES.items():
            objects = {
                "bbox": [[x0, y0, x1 - x0, y1 - y0] for _, (x0, y0, x1, y1) in boxes],
                "categories": [label for label, _ in boxes],
            }
            rows.append(json.dumps({"file_name": f"{name}.jpg", "objects": objects}))
        (root / split / "metadata.jsonl").write_text("\n".join(rows))


WRITERS = {"YOLO": yolo, "Pascal VOC": voc, "imagefolder": imagefolder}


def told(index: SplitIndex) -> str:
    return "\n".join(f"{finding.file}: {finding.message}" for finding in index.findings)


def check(index: SplitIndex) -> None:
    assert [category.name for category in index.categories] == NAMES
    found = {Path(path).stem: index.objects(i) for i, path in enumerate(index.paths)}
    assert found.keys() == BOXES.keys()
    assert index.sizes_hw.tolist() == [[80, 100]] * 3
    for name, (boxes, labels) in found.items():
        assert [NAMES[label] for label in labels] == [label for label, _ in BOXES[name]]
        np.testing.assert_allclose(boxes, np.array([box for _, box in BOXES[name]]).reshape(-1, 4), atol=1e-4)
    assert index.report == []


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_content(tmp_path, name: str):
    WRITERS[name](tmp_path)
    assert {source.format for source in sources(tmp_path).values()} == {name}
    for split in ("train", "valid"):
        check(load_split(tmp_path, split))


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_converted_to_coco_folders(tmp_path, capsys, name: str):
    WRITERS[name](tmp_path / "there")
    code, out, err = run(capsys, "data", "convert", tmp_path / "there", tmp_path / "here")
    assert (code, err) == (0, "")
    assert "train: 3 images, 3 boxes" in out
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
        ("train: ../../../elsewhere", "lies outside the folder"),
        ("names: 3\ntrain: train/images", "'names' must be a list of class names"),
        ("- a\n- b", "must contain a mapping with 'train', 'val' and 'names', not list"),
        ("a: [", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
        ("x: !!python/object/apply:os.system ['touch owned']", "is not valid YAML"),
        ("a: 1\n" * 300_000, "must not be larger than 1048576 bytes"),
    ],
)
def test_an_invalid_yaml_file_is_refused(tmp_path, monkeypatch, description: str, text: str):
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
    assert [Path(path).name for path in index.paths] == ["a.jpg", "b.jpg"]  # c has labels that cannot be read
    report = told(index)
    for text in (
        "a.txt: line 2 must contain only numbers, not 'dog 1 2 3 4'",
        "a.txt: line 3 must be a class followed by four numbers",
        "c.txt cannot be read: it is not UTF-8 text",
    ):
        assert text in report
    assert [line.split(" (")[0] for line in index.report] == [
        "box-not-finite: 2",
        "annotation-unreadable: 1",
        "category-unknown: 1",
    ]
    voc(tmp_path / "v")
    (tmp_path / "v" / "Annotations" / "a.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    (tmp_path / "v" / "Annotations" / "c.xml").write_text("<annotation>")
    (tmp_path / "v" / "ImageSets" / "Main" / "test.txt").write_text("d")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (tmp_path / "v" / "Annotations" / "d.xml").write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")
    report = told(load_split(tmp_path / "v", "train"))
    assert "a.xml: object 1 must have a name and a bndbox of four numbers" in report
    assert "c.xml: is not valid XML" in report
    imagefolder(tmp_path / "i")
    file = tmp_path / "i" / "train" / "metadata.jsonl"
    file.write_text(
        file.read_text() + '\n{"file_name": 3}\n{"file_name": "d.jpg", "objects": {"bbox": [1], "categories": ["cat"]}}'
    )
    report = told(load_split(tmp_path / "i", "train"))
    assert "metadata.jsonl: line 4 must be a JSON object with a 'file_name'" in report
    assert re.search(r"d.jpg: cannot be opened: No such file", report)


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
    """A list may contain any path of the machine. Neither the image nor its labels are read."""
    yolo(tmp_path / "a" / "b" / "d")
    write_images(tmp_path / "images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    root = tmp_path / "a" / "b" / "d"
    (root / "train.txt").write_text(f"train/images/a.jpg\n{tmp_path}/images/a.jpg\n")
    (root / "data.yaml").write_text("train: train.txt\nval: valid/images\nnames: [cat, dog]")
    opened = []
    true_open = Image.open
    monkeypatch.setattr(Image, "open", lambda file, **rest: (opened.append(str(file)), true_open(file, **rest))[1])
    with pytest.raises(DataError, match="lies outside the data set's folder"):
        load_split(root, "train")
    assert f"{tmp_path}/images/a.jpg" not in opened
    code, out, _ = run(capsys, "doctor", root, "--json")
    assert code == 3
    assert "image-outside-folder" in {finding["code"] for finding in json.loads(out)["findings"]}


def test_a_relative_path_is_accepted(tmp_path, monkeypatch, capsys):
    for name, write in WRITERS.items():
        write(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        check(load_split(name, "train"))
        _, out, _ = run(capsys, "doctor", name, "--json")
        assert not {f["code"] for f in json.loads(out)["findings"]} - {
            "image-leak",
            "image-duplicate",
            "too-small-objects",
            "category-in-one-split",
        }, name
        monkeypatch.chdir(tmp_path / name)
        check(load_split(".", "train"))


def test_a_byte_order_mark_is_no_fault(tmp_path):
    for name, write in WRITERS.items():
        write(tmp_path / name)
        for file in (tmp_path / name).rglob("*"):
            if file.suffix in (".txt", ".jsonl", ".yaml"):
                file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        check(load_split(tmp_path / name, "train"))


def test_a_yaml_file_is_a_data_set_too(tmp_path):
    yolo(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "mine.yaml")
    check(load_split(tmp_path / "mine.yaml", "train"))
    check(load_split(tmp_path, "train"))
    (tmp_path / "other.yaml").write_text("train: train/images\nnames: [cat]")
    with pytest.raises(DataError, match="none of the supported layouts was found there"):
        load_split(tmp_path, "train")  # it could be either of the two


def test_a_yolo_path_may_be_another_folder(tmp_path):
    """The folders of the splits are relative to `path`, not to the folder of the YAML file."""
    yolo(tmp_path / "set")
    (tmp_path / "set" / "data.yaml").unlink()
    (tmp_path / "data.yaml").write_text("path: set\ntrain: train/images\nval: valid/images\nnames: [cat, dog]")
    check(load_split(tmp_path, "train"))


def test_where_labels_lie(tmp_path):
    """The last `images` in a path is replaced. Labels next to the image are used if there are no others."""
    yolo(tmp_path / "images" / "set")
    check(load_split(tmp_path / "images" / "set", "train"))
    root = tmp_path / "images" / "flat"
    yolo(root)
    for split in ("train", "valid"):
        for file in (*(root / split / "images").iterdir(), *(root / split / "labels").iterdir()):
            file.rename(root / split / file.name)
    (root / "data.yaml").write_text("train: train\nval: valid\nnames: [cat, dog]")
    check(load_split(root, "train"))


def test_a_missing_folder_in_the_yaml_file_is_a_finding(tmp_path, capsys):
    yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: train/images\nval: valid/images\ntest: ../test/images\nnames: [cat, dog]")
    (tmp_path / "train" / "labels" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert load_split(tmp_path, "valid").report == []
    _, out, _ = run(capsys, "doctor", tmp_path, "--json")
    findings = {finding["code"]: finding for finding in json.loads(out)["findings"]}
    assert "test/images does not exist" in findings["split-missing"]["message"]
    assert findings["annotation-orphan"]["file"].endswith("train/labels/gone.txt")
    with pytest.raises(DataError, match="lists no images. Faults: .*test/images does not exist"):
        load_split(tmp_path, "test")


def test_the_box_of_a_pose_is_its_first_four_numbers(tmp_path):
    yolo(tmp_path)
    with (tmp_path / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 2]\n")
    (tmp_path / "train" / "labels" / "a.txt").write_text("1 0.2 0.5 0.2 0.5 0.1 0.1 0.9 0.9\n")
    np.testing.assert_allclose(load_split(tmp_path, "train").objects(0)[0], [[10, 20, 30, 60]], atol=1e-4)


@pytest.mark.parametrize(
    "description",
    [
        "train: train/images\nnames: {.inf: x}",
        "train: train/images\nnames: [[a], b]",
        "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b]\n"
        "d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e]\n"
        "names: [*f, *f, *f]\ntrain: train/images",
        'train: "a\\0b"\nnames: [x]',
        'train: "a\\ud83d"\nnames: [x]',
        "train: []\nnames: [x]",
    ],
)
def test_unusual_yaml_files_are_refused(tmp_path, description: str):
    yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(description)
    with pytest.raises(DataError):
        load_split(tmp_path, "train")


def test_voc_as_roboflow_writes_it(tmp_path):
    voc(tmp_path / "there")
    for split in ("train", "valid"):
        write_images(tmp_path / "here" / split)
        for file in (tmp_path / "there" / "Annotations").iterdir():
            (tmp_path / "here" / split / file.name).write_bytes(file.read_bytes())
    assert {source.format for source in sources(tmp_path / "here").values()} == {"Pascal VOC"}
    check(load_split(tmp_path / "here", "train"))


def test_common_variants_of_voc(tmp_path):
    """Flags after names, names with spaces, images other than JPEG, blanks around class names, a missing XML file."""
    voc(tmp_path)
    Image.new("RGB", SIZE).save(tmp_path / "JPEGImages" / "my photo.png")
    Image.new("RGB", SIZE).save(tmp_path / "JPEGImages" / "bare.jpg")
    text = (tmp_path / "Annotations" / "a.xml").read_text().replace("dog", " dog\n")
    (tmp_path / "Annotations" / "my photo.xml").write_text(text)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a  1\nmy photo\nbare\n../../secret\n" + "x" * 5000)
    (tmp_path.parent / "secret.xml").write_text(text)
    with pytest.raises(DataError, match="lies outside the data set's folder"):
        load_split(tmp_path, "train")
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a  1\nmy photo\nbare\n")
    index = load_split(tmp_path, "train")
    assert [Path(path).name for path in index.paths] == ["a.jpg", "my photo.png", "bare.jpg"]
    assert [len(index.objects(i)[1]) for i in range(3)] == [2, 2, 0]
    assert [category.name for category in index.categories] == NAMES
    assert "bare.xml: does not exist" in told(index)


def test_the_size_in_an_xml_file_is_the_annotated_size(tmp_path):
    voc(tmp_path)
    file = tmp_path / "Annotations" / "a.xml"
    size = "<annotation><size><width>{}</width><height>{}</height></size>"
    file.write_text(file.read_text().replace("<annotation>", size.format(0, 0)))
    check(load_split(tmp_path, "train"))
    file.write_text(file.read_text().replace(size.format(0, 0), size.format(200, 160)))
    index = load_split(tmp_path, "train")
    assert index.sizes_hw[0].tolist() == [160, 200]
    with pytest.raises(DataError, match="its boxes cannot be used"):
        index.check_size(0, (80, 100))


def test_boxes_of_unreadable_images_are_not_checked(tmp_path, capsys):
    for name, write in WRITERS.items():
        write(tmp_path / name)
        for file in (tmp_path / name).rglob("a.jpg"):
            file.write_text("no image")
        _, out, _ = run(capsys, "doctor", tmp_path / name, "--json")
        codes = {finding["code"] for finding in json.loads(out)["findings"]}
        assert "image-unreadable" in codes
        assert not any(code.startswith("box-") for code in codes), codes


@pytest.mark.parametrize(
    "objects",
    [
        [{"bbox": [10, 20, 20, 40], "category": "dog"}, {"bbox": [0, 0, 100, 80], "category": "cat"}],
        {"bboxes": [[10, 20, 20, 40], [0, 0, 100, 80]], "labels": ["dog", "cat"]},
        None,
    ],
)
def test_common_variants_of_imagefolder(tmp_path, objects):
    """A list of objects, other names of the fields, or one object per line."""
    imagefolder(tmp_path)
    file = tmp_path / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    if objects is None:
        lines = [
            {"file_name": "a.jpg", "objects": {"bbox": [box], "categories": [label]}}
            for box, label in zip(*rows[0]["objects"].values(), strict=True)
        ]
    else:
        lines = [{"file_name": "a.jpg", "objects": objects}]
    file.write_text("\n".join(map(json.dumps, [*lines, *rows[1:]])))
    check(load_split(tmp_path, "train"))


def test_classes_of_imagefolders(tmp_path):
    """Numbers do not change. Names are numbered over all splits, also names that a split does not have."""
    imagefolder(tmp_path / "n")
    for file in (tmp_path / "n").rglob("*.jsonl"):
        file.write_text(file.read_text().replace('"dog"', "7.0").replace('"cat"', "3"))
    index = load_split(tmp_path / "n", "train")
    assert [(c.id, c.name) for c in index.categories] == [(3, "3"), (7, "7")]
    imagefolder(tmp_path / "s")
    file = tmp_path / "s" / "train" / "metadata.jsonl"
    file.write_text(file.read_text().replace('"cat"', '"dog"'))
    assert [c.name for c in load_split(tmp_path / "s", "train").categories] == NAMES


def test_invalid_objects_of_an_imagefolder_are_reported(tmp_path):
    imagefolder(tmp_path)
    file = tmp_path / "train" / "metadata.jsonl"
    rows = [
        {"file_name": "a.jpg", "objects": {"bbox": [[1, 1, 5, 5], [2, 2, 5, 5]], "categories": ["cat"]}},
        {"file_name": "b.jpg", "objects": {"bbox": [[1, 1, 5, 5]], "classes": ["cat"]}},
        {"file_name": "c.jpg", "objects": {"bbox": [[1, 1, 5, 5], [3, 3, 5, 5]], "categories": ["cat", None]}},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    index = load_split(tmp_path, "train")
    assert len(index.labels) == 1
    assert "a.jpg: must have as many boxes" in told(index)
    assert "not 2 and 1" in told(index)
    assert "b.jpg: must have as many boxes" in told(index)
    assert "c.jpg: a class must be a name or a number, not None" in told(index)


def test_two_splits_of_a_kind_are_both_there(tmp_path):
    """Training prefers `valid` to `val`. The doctor checks both."""
    from conditional_detr.doctor.examine import as_written

    for name in ("train", "val", "valid"):
        write_images(tmp_path / "r" / name)
        images = [{"id": i, "file_name": f"{stem}.jpg", "width": 100, "height": 80} for i, stem in enumerate(BOXES)]
        what = {"images": images, "annotations": [], "categories": [{"id": 1, "name": name}]}
        (tmp_path / "r" / name / "_annotations.coco.json").write_text(json.dumps(what))
    splits, _ = as_written(tmp_path / "r")
    assert {name: split.source.location.split for name, split in splits.items()} == {n: n for n in ("train", "val", "valid")}
    assert load_split(tmp_path / "r", "valid").categories[0].name == "valid"
    assert load_split(tmp_path / "r", "val").categories[0].name == "val"
    root = tmp_path / "c"
    (root / "annotations").mkdir(parents=True)
    for name in ("train2014", "train2017", "2017"):
        (root / "annotations" / f"instances_{name}.json").write_text("{}")
    assert sorted(sources(root)) == ["2017", "train", "train2017"]


def test_the_image_header_gives_the_size_after_rotation(tmp_path):
    from conditional_detr.images.header import size_of

    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", SIZE).save(tmp_path / "a.jpg", exif=exif)
    assert size_of(tmp_path / "a.jpg") == SIZE[::-1]
    assert size_of(tmp_path / "none.jpg") is None


def recode(folder: Path, names: dict[str, str], encoding: str, head: str = "") -> None:
    for file in folder.glob("*.xml"):
        text = file.read_text()
        for old, new in names.items():
            text = text.replace(f">{old}<", f">{new}<")
        file.write_bytes((head + text).encode(encoding))


@pytest.mark.parametrize("encoding", ["gb2312", "gbk"])
@pytest.mark.parametrize("is_declared", [True, False])
def test_voc_in_chinese(tmp_path, encoding: str, is_declared: bool):
    voc(tmp_path)
    head = f"<?xml version='1.0' encoding='{encoding}'?>" if is_declared else ""
    recode(tmp_path / "Annotations", {"cat": "小猫", "dog": "小狗"}, encoding, head)
    index = load_split(tmp_path, "train")
    assert [category.name for category in index.categories] == ["小狗", "小猫"]
    assert len(index.labels) == 3
    assert [finding.code for finding in index.findings] == ([] if is_declared else ["annotation-encoding"])
    assert is_declared or "2 XML files without a declared encoding and not in UTF-8: read as gb18030" in told(index)


@pytest.mark.parametrize(
    "line",
    ["{}.jpg", "JPEGImages/{}.jpg", "./{}.jpg", "/data/VOC2007/JPEGImages/{}.jpg", "JPEGImages\\{}.jpg", "{}.jpg 1"],
)
def test_a_list_of_voc_may_hold_names_or_paths_of_files(tmp_path, line: str):
    voc(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\n".join(line.format(name) for name in BOXES))
    index = load_split(tmp_path, "train")
    assert (len(index), len(index.labels)) == (3, 3)
    (finding,) = index.findings
    assert finding.code == "image-spelling"
    assert "3 names in the list with a suffix or a folder, e.g. " in finding.message


@pytest.mark.parametrize("place", ["ImageSets", "."])
def test_lists_of_voc_in_other_places(tmp_path, place: str):
    voc(tmp_path)
    for file in (tmp_path / "ImageSets" / "Main").iterdir():
        file.write_text("\n".join(f"JPEGImages/{name}.jpg Annotations/{name}.xml" for name in BOXES))
        file.rename(tmp_path / place / file.name)
    index = load_split(tmp_path, "valid")
    assert (len(index), len(index.labels)) == (3, 3)


def test_an_image_of_voc_in_an_unknown_format_is_named(tmp_path, capsys):
    voc(tmp_path)
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / "JPEGImages" / "a.heic")
    (tmp_path / "JPEGImages" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    _, out, _ = run(capsys, "doctor", tmp_path, "--json")
    (finding,) = [each for each in json.loads(out)["findings"] if each["split"] == "train" and each["severity"] == "error"]
    assert finding["code"] == "image-unreadable"
    assert finding["file"].endswith("a.heic")
    assert "unknown image format (supported: AVIF, BMP" in finding["message"]


def test_suffixes_of_voc_in_capitals(tmp_path):
    voc(tmp_path / "lists")
    for file in [*(tmp_path / "lists").rglob("*.jpg"), *(tmp_path / "lists").rglob("*.xml")]:
        file.rename(file.with_suffix(file.suffix.upper()))
    check(load_split(tmp_path / "lists", "train"))
    for split in ("Train", "VAL"):
        (tmp_path / "folders" / split).mkdir(parents=True)
        for file in [*(tmp_path / "lists").rglob("*.JPG"), *(tmp_path / "lists").rglob("*.XML")]:
            (tmp_path / "folders" / split / file.name).write_bytes(file.read_bytes())
    (tmp_path / "folders" / "Train" / "._a.jpg").write_bytes(b"\0")
    check(load_split(tmp_path / "folders", "valid"))
    check(load_split(tmp_path / "folders", "train"))


@pytest.mark.parametrize("names", [("Annotations", "JPEGImages"), ("annotations", "images"), (".", "."), ("xml", "Images")])
def test_voc_without_lists_is_one_split(tmp_path, names: tuple[str, str]):
    voc(tmp_path / "there")
    for folder, new in zip(("Annotations", "JPEGImages"), names, strict=True):
        (tmp_path / "here" / new).mkdir(parents=True, exist_ok=True)
        for file in (tmp_path / "there" / folder).iterdir():
            (tmp_path / "here" / new / file.name).write_bytes(file.read_bytes())
    index = load_split(tmp_path / "here", "all")
    assert len(index.labels) == 3
    with pytest.raises(DataError, match="It has: all. `cdetr data split"):
        load_split(tmp_path / "here", "train")


def test_an_image_of_voc_whose_xml_cannot_be_read_is_left_out(tmp_path):
    voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text("<annotation>")
    index = load_split(tmp_path, "train")
    assert {Path(path).stem for path in index.paths} == {"b", "c"}
    assert [finding.code for finding in index.findings] == ["annotation-unreadable"]
    assert index.missing == [str(tmp_path / "Annotations" / "a.xml")]


def test_a_refusal_lists_the_faults(tmp_path, capsys):
    voc(tmp_path)
    for file in (tmp_path / "Annotations").iterdir():
        file.write_text("<annotation>")
    for verb in (["doctor", tmp_path], ["train", "--data", tmp_path]):
        code, _, err = run(capsys, *verb)
        assert code == 2
        assert "train.txt lists no categories. Faults: 3 of annotation-unreadable" in err
        assert "a.xml: is not valid XML: no element found" in err
    shutil.rmtree(tmp_path / "Annotations")
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(DataError, match=r"Faults: 3 of annotation-orphan \(.*a.xml: does not exist"):
        load_split(tmp_path, "train")


def test_imagefolder_names_are_looked_for_too(tmp_path):
    imagefolder(tmp_path)
    file = tmp_path / "train" / "metadata.jsonl"
    file.write_text(file.read_text().replace('"a.jpg"', '"train/a.JPG"').replace('"categories": ["cat"]', '"categories": []'))
    index = load_split(tmp_path, "train")
    assert {Path(path).name for path in index.paths} == {"a.jpg", "b.jpg"}  # the classes of c cannot be read
    assert {finding.code for finding in index.findings} == {"image-spelling", "annotation-unreadable"}


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("{}/Annotations", "{}/JPEGImages"),
        ("{}/annotations", "{}/images"),
        ("{}/labels", "{}/images"),
        ("Annotations/{}", "JPEGImages/{}"),
        ("annotations/{}", "images/{}"),
        ("annotations/{}", "images"),
        ("{}", "{}"),
    ],
)
def test_splits_of_voc_may_be_folders(tmp_path, annotations: str, images: str):
    voc(tmp_path / "once")
    for split in ("train", "valid"):
        for kind, folder, suffix in ((annotations, "Annotations", ".xml"), (images, "JPEGImages", ".jpg")):
            place = tmp_path / "set" / kind.format(split)
            place.mkdir(parents=True, exist_ok=True)
            for stem in BOXES:
                name = f"{split}-{stem}" if images == "images" else stem
                shutil.copy(tmp_path / "once" / folder / f"{stem}{suffix}", place / f"{name}{suffix}")
    assert set(sources(tmp_path / "set")) == {"train", "valid"}
    for split in ("train", "valid"):
        index = load_split(tmp_path / "set", split)
        assert len(index) == len(BOXES)
        assert [category.name for category in index.categories] == NAMES
        assert len(index.labels) == sum(map(len, BOXES.values()))
        assert all(split in path for path in index.paths)
        assert index.report == []


def test_an_xml_file_may_name_its_image(tmp_path):
    voc(tmp_path)
    shutil.rmtree(tmp_path / "ImageSets")
    for file in (tmp_path / "Annotations").glob("*.xml"):
        tree = ElementTree.parse(file)
        ElementTree.SubElement(tree.getroot(), "filename").text = f"C:\\x\\{file.stem}.JPG"
        tree.write(file)
        file.rename(file.with_stem(f"annotation-of-{file.stem}"))
    check(load_split(tmp_path, "all"))


@pytest.mark.parametrize("name", WRITERS)
def test_a_data_set_may_lie_in_one_more_folder(tmp_path, name: str):
    WRITERS[name](tmp_path / "export" / "version-3")
    (tmp_path / "__MACOSX").mkdir()
    for split in ("train", "valid"):
        check(load_split(tmp_path, split))
    shutil.copytree(tmp_path / "export", tmp_path / "other")
    with pytest.raises(DataError, match="It contains the folders export, other and files"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize("more", ["0.93", "17"])
def test_a_confidence_after_the_box_is_ignored_and_reported(tmp_path, more: str):
    yolo(tmp_path)
    file = tmp_path / "train" / "labels" / "a.txt"
    file.write_text("".join(f"{line} {more}\n" for line in file.read_text().splitlines()))
    polygon = tmp_path / "train" / "labels" / "c.txt"
    polygon.write_text(f"0 0.05 0.0625 0.06 0.0625 0.06 0.0875 0.05 0.0875 {more}")
    index = load_split(tmp_path, "train")
    assert [finding.code for finding in index.findings] == ["label-columns"] * 2
    assert index.findings[0].message == "has lines with one more number after the box, such as a confidence"
    found = {Path(path).stem: index.objects(i) for i, path in enumerate(index.paths)}
    for name in ("a", "c"):
        boxes, labels = found[name]
        assert [NAMES[label] for label in labels] == [label for label, _ in BOXES[name]]
        np.testing.assert_allclose(boxes, np.array([box for _, box in BOXES[name]]), atol=1e-4)


def test_images_of_another_split_or_xml_file_are_not_taken(tmp_path):
    voc(tmp_path / "once")
    for split in ("train", "valid"):
        (tmp_path / "set" / "Annotations" / split).mkdir(parents=True)
        for stem in BOXES:
            shutil.copy(tmp_path / "once" / "Annotations" / f"{stem}.xml", tmp_path / "set" / "Annotations" / split)
    shutil.copytree(tmp_path / "once" / "JPEGImages", tmp_path / "set" / "JPEGImages" / "valid")
    shutil.copytree(tmp_path / "once" / "JPEGImages", tmp_path / "set" / "JPEGImages" / "train")
    (tmp_path / "set" / "JPEGImages" / "train" / "a.jpg").unlink()
    index = load_split(tmp_path / "set", "train")
    assert sorted(Path(path).stem for path in index.paths) == ["b", "c"]
    assert [finding.code for finding in index.findings if finding.loses_image] == ["image-missing"]
    augmented = ElementTree.parse(tmp_path / "once" / "Annotations" / "c.xml")
    ElementTree.SubElement(augmented.getroot(), "filename").text = "a.jpg"
    augmented.write(tmp_path / "once" / "Annotations" / "a_augmented.xml")
    shutil.rmtree(tmp_path / "once" / "ImageSets")
    index = load_split(tmp_path / "once", "all")
    assert len(index.objects([Path(path).stem for path in index.paths].index("a"))[1]) == len(BOXES["a"])
    assert any("a_augmented" in finding.file for finding in index.findings if finding.code == "image-missing")


def test_folders_that_cannot_be_read_are_no_data_set(tmp_path):
    yolo(tmp_path / "set")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.yaml").write_text("names: [")
    check(load_split(tmp_path, "train"))


def test_a_list_does_not_lead_out_of_the_data_set(tmp_path):
    yolo(tmp_path / "a" / "set")
    (tmp_path / "elsewhere").mkdir()
    for name in ("x", "y"):
        Image.new("RGB", SIZE).save(tmp_path / "elsewhere" / f"{name}.jpg")
    (tmp_path / "a" / "set" / "train.txt").write_text("train/images/a.jpg\ntrain/images/b.jpg\ntrain/images/c.jpg\n")
    (tmp_path / "a" / "set" / "data.yaml").write_text("train: train.txt\nval: train/images\nnames: [cat, dog]")
    check(load_split(tmp_path / "a" / "set", "train"))  # all other images are those of the split valid
    (tmp_path / "a" / "set" / "train.txt").write_text(f"train/images/a.jpg\n{tmp_path}/elsewhere/x.jpg\n")
    with pytest.raises(DataError, match="lies outside the data set's folder"):
        load_split(tmp_path / "a" / "set", "train")
    found = sources(tmp_path / "a" / "set")["train"].read()[1]
    assert not [finding for finding in found if "elsewhere" in str(finding.file) and finding.code == "image-unlisted"]
