"""Whatever a data set holds, only our own errors come out."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conditional_detr.config.presets import preset
from conditional_detr.data.findings import counted
from conditional_detr.data.index import load_split
from conditional_detr.doctor.clean_copy import write_copy
from conditional_detr.doctor.examine import examine, is_ok
from conditional_detr.errors import ConditionalDETRError
from conditional_detr.factory.build import preprocessing_for
from fuzzing import fuzzed, odd_numbers

CONFIG = preset("conditional-detr-tiny").model
IMAGE = preprocessing_for(CONFIG, 320)

names = st.one_of(
    st.sampled_from(["a.png", "b.png", "../x", "/etc/passwd", "", ".", "a\0b", "é", "con"]), st.text(max_size=8), odd_numbers
)
boxes = st.one_of(st.lists(odd_numbers, max_size=5), odd_numbers)
images = st.fixed_dictionaries(
    {}, optional={"id": odd_numbers, "file_name": names, "width": odd_numbers, "height": odd_numbers}
)
rows = st.fixed_dictionaries(
    {}, optional={"id": odd_numbers, "image_id": odd_numbers, "category_id": odd_numbers, "bbox": boxes, "iscrowd": odd_numbers}
)
categories = st.fixed_dictionaries({}, optional={"id": odd_numbers, "name": names})
contents = st.fixed_dictionaries(
    {
        "images": st.lists(images, max_size=4),
        "annotations": st.lists(rows, max_size=10),
        "categories": st.lists(categories, max_size=3),
    }
)


def ours_alone(folder: Path) -> None:
    """A data set is read, or refused in our words; the doctor finds what there is to find, tells it and writes a copy."""
    with suppress(ConditionalDETRError):
        json.dumps(load_split(folder, "train").ground_truth(), allow_nan=False)
    copy = folder.parent / "copy"
    with suppress(ConditionalDETRError):
        splits, findings = examine(folder, CONFIG, IMAGE)
        json.dumps([finding.to_dict() for finding in findings], allow_nan=False, ensure_ascii=False).encode()
        "".join(counted(findings)).encode()
        write_copy(splits, findings, copy)
        assert is_ok(examine(copy, CONFIG, IMAGE)[1])
    shutil.rmtree(copy, ignore_errors=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from PIL import Image

    root = tmp_path_factory.mktemp("fuzz")
    for place in (
        root / "coco" / "train",
        root / "yolo" / "train",
        root / "imagefolder" / "train",
        root / "voc" / "JPEGImages",
    ):
        place.mkdir(parents=True)
        for name in ("a", "b"):
            Image.new("RGB", (8, 6)).save(place / f"{name}.png")
    (root / "voc" / "Annotations").mkdir()
    (root / "voc" / "ImageSets" / "Main").mkdir(parents=True)
    (root / "voc" / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    (root / "yolo" / "data.yaml").write_text("train: train\nnames: [x, y]\n")
    return root


@fuzzed()
@given(content=contents)
def test_odd_coco(folder, content):
    (folder / "coco" / "train" / "_annotations.coco.json").write_text(
        json.dumps(content), encoding="utf-8", errors="surrogatepass"
    )
    ours_alone(folder / "coco")


@fuzzed()
@given(
    text=st.one_of(
        st.binary(max_size=200),
        st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()),
    )
)
def test_any_bytes_as_coco(folder, text):
    (folder / "coco" / "train" / "_annotations.coco.json").write_bytes(text)
    ours_alone(folder / "coco")


@fuzzed()
@given(
    labels=st.one_of(st.binary(max_size=100), st.lists(st.lists(odd_numbers, max_size=8), max_size=5)),
    description=st.one_of(
        st.none(),
        st.binary(max_size=100),
        st.fixed_dictionaries(
            {"names": st.one_of(st.lists(names, max_size=3), st.dictionaries(st.integers(-2, 5), names, max_size=3), names)},
            optional={"train": st.one_of(names, st.lists(names, max_size=2)), "val": names, "path": names, "kpt_shape": names},
        ).map(lambda value: json.dumps(value).encode(errors="surrogatepass")),
    ),
)
def test_odd_yolo(folder, labels, description):
    text = (
        labels if isinstance(labels, bytes) else "\n".join(" ".join(map(str, line)) for line in labels).encode(errors="replace")
    )
    (folder / "yolo" / "train" / "a.txt").write_bytes(text)
    (folder / "yolo" / "data.yaml").write_bytes(b"train: train\nnames: [x, y]\n" if description is None else description)
    ours_alone(folder / "yolo")


@fuzzed()
@given(
    xml=st.one_of(st.binary(max_size=100), st.lists(st.tuples(names, odd_numbers, odd_numbers), max_size=4)),
    listed=st.one_of(st.just(b"a\nb\n"), st.binary(max_size=60)),
)
def test_odd_voc(folder, xml, listed):
    (folder / "voc" / "ImageSets" / "Main" / "train.txt").write_bytes(listed)
    if not isinstance(xml, bytes):
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>0</ymin><xmax>{b}</xmax><ymax>5</ymax></bndbox></object>"
            for name, a, b in xml
        )
        xml = f"<annotation>{objects}</annotation>".encode(errors="replace")
    (folder / "voc" / "Annotations" / "a.xml").write_bytes(xml)
    ours_alone(folder / "voc")


@example(lines=[{"file_name": "a.png", "objects": {"bbox": [[0, 0, None, 0]], "categories": ["x"]}}])
@fuzzed()
@given(
    lines=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.fixed_dictionaries(
                {
                    "file_name": names,
                    "objects": st.fixed_dictionaries(
                        {"bbox": st.lists(boxes, max_size=4), "categories": st.lists(names, max_size=4)}
                    ),
                }
            ),
        ),
        max_size=4,
    )
)
def test_odd_imagefolder(folder, lines):
    text = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    (folder / "imagefolder" / "train" / "metadata.jsonl").write_bytes(text)
    ours_alone(folder / "imagefolder")
