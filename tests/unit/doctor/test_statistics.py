"""Statistics of a data set, and the page about it."""

import json

import numpy as np
import pytest
from PIL import Image

from commands import run
from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.data.index import load_split
from conditional_detr.doctor.examine import as_written
from conditional_detr.doctor.statistics import CENTRE_CELLS, statistics
from conditional_detr.images.preprocessing import Preprocessor

BOXES = {0: [(7, [0, 0, 40, 10]), (9, [50, 30, 10, 10])], 1: [(7, [80, 60, 20, 20])], 2: []}


@pytest.fixture
def data(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        images, annotations = [], []
        for i, boxes in BOXES.items():
            pixels = np.random.default_rng(i + 10 * (split == "valid")).integers(0, 255, (80, 100, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": 100, "height": 80})
            for category, box in boxes:
                row = {"id": len(annotations), "image_id": i, "category_id": category, "bbox": box, "area": 1, "iscrowd": 0}
                annotations.append(row)
        categories = [{"id": 7, "name": "<b>cat</b>"}, {"id": 9, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    return tmp_path


def test_sizes_shapes_numbers_and_positions(data):
    splits, _ = as_written(data)
    found = statistics(splits["train"].clean, Preprocessor(PreprocessorConfig(imgsz=160, max_size=0)), 16)
    assert found.side.tolist() == [20, 10, 20]
    assert found.cells.tolist() == [2.5, 1.25, 2.5]  # images are enlarged from 80 to 160 px
    assert found.aspect.tolist() == [4, 1, 1]
    assert found.per_image.tolist() == [2, 1, 0]
    assert (found.objects.tolist(), found.images.tolist()) == ([2, 1], [2, 1])
    assert found.together.tolist() == [[2, 1], [1, 1]]
    assert found.centres.sum() == 3
    assert found.centres[int(5 / 80 * CENTRE_CELLS), int(20 / 100 * CENTRE_CELLS)] == 1
    assert found.centres[int(70 / 80 * CENTRE_CELLS), int(90 / 100 * CENTRE_CELLS)] == 1
    assert len(load_split(data, "train").labels) == len(found.side)


def test_the_page_shows_all_of_it_and_runs_nothing(data, capsys):
    code, out, err = run(capsys, "doctor", data, "--report", data / "pages" / "page.html")
    assert code == 0, err
    assert f"Wrote {data}/pages/page.html" in "".join(out.splitlines())
    text = (data / "pages" / "page.html").read_text()
    assert "<b>cat</b>" not in text.replace("&lt;b&gt;cat&lt;/b&gt;", "")
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org", "")
    for word in ("No problems were found", "Sizes and shapes", "Positions", "Classes in one image", "2.png", "image/svg+xml"):
        assert word in text
    assert text.count("data:image/jpeg") == 6
    assert "Objects smaller than 2.5 cells: " in text


def test_a_page_of_a_set_without_objects(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    Image.new("RGB", (50, 40)).save(tmp_path / "train" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 50, "height": 40}],
        "annotations": [],
        "categories": [{"id": 1, "name": "x"}],
    }
    (tmp_path / "train" / "_annotations.coco.json").write_text(json.dumps(content))
    run(capsys, "doctor", tmp_path, "--report", tmp_path / "page.html", "--json")
    assert "split-empty" in (tmp_path / "page.html").read_text()
