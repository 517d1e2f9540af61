"""The report: one page without scripts, for any evaluation, and pictures of plots that hold what they say."""

import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from conditional_detr.data.coco import load_split
from conditional_detr.errors import RunError
from conditional_detr.evaluation import plots
from conditional_detr.evaluation.coco import Evaluation, judge
from conditional_detr.evaluation.matches import Thresholds
from conditional_detr.evaluation.report import FIGURES, duration, write_report

HISTORY = [
    {"epoch": i + 1, "loss": 9.0 - i, "loss_ce": 1.0, "loss_bbox": 0.5, "loss_giou": 0.7, "lr": 1e-4, "seconds": 2.0}
    | {"AP": ap, "AP50": ap, "AP75": None}
    for i, ap in enumerate([None, 0.2, 0.1])
]


class Page(HTMLParser):
    """What a browser would fetch or run, the pictures, and the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attributes if key in ("src", "href", "srcset", "data", "action")]
        assert not [key for key, _ in attributes if key.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words += data


def evaluated(folder, model, detect) -> Evaluation:
    """An evaluation on the digits with made detections: `detect(annotation)` gives rows to add to an empty list."""
    index = load_split(folder, "valid")
    content = json.loads(index.file.read_text())
    detections = [row for annotation in content["annotations"] for row in detect(annotation)]
    return Evaluation(model, index, "valid", detections, judge(index.file, detections), 1.5)


def true_box(annotation: dict) -> list[dict]:
    return [{key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5 + annotation["id"] / 1000}]


def page_of(evaluation: Evaluation, tmp_path, **more) -> Page:
    write_report(evaluation, tmp_path / "new" / "report.html", "A run", {"data": "digits"}, **more)
    return Page((tmp_path / "new" / "report.html").read_text(encoding="utf-8"))


def test_a_page_asks_for_nothing_and_runs_nothing(digits_folder, small_model, tmp_path):
    page = page_of(evaluated(digits_folder, small_model, true_box), tmp_path, history=HISTORY, settings="epochs = 3")
    assert all(link.startswith("data:image/") for link in page.links)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert page.tags.count("img") >= 3 + 2 + 1 + 2 * 4
    for name in FIGURES:
        assert name in page.words
    assert "the best of 3 epochs (epoch 2)" in page.words
    assert "All epochs" in page.words
    assert "epochs = 3" in page.words


def test_perfect_detections_are_told_as_such(digits_folder, small_model, tmp_path):
    page = page_of(evaluated(digits_folder, small_model, true_box), tmp_path)
    assert "AP 1.000, AP50 1.000 on 6 pictures" in " ".join(page.words.split())
    assert "No picture has a fault" in page.words
    assert "F1 is highest, 1.00, at --conf 0.50 (precision 1.00, recall 1.00)" in page.words
    assert "How it learned" not in page.words


def test_detections_of_nothing_are_told_as_such(digits_folder, small_model, tmp_path):
    page = page_of(evaluated(digits_folder, small_model, lambda annotation: []), tmp_path)
    assert "Nothing was found at IoU 0.5 at any score" in page.words
    assert "AP 0.000" in page.words
    objects = len(load_split(digits_folder, "valid").labels)
    assert sum(map(int, re.findall(r"(\d+) missed,", page.words))) == objects


def test_pictures_without_any_object(digits_folder, small_model, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    file = tmp_path / "d" / "valid" / "_annotations.coco.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    page = page_of(evaluated(tmp_path / "d", small_model, true_box), tmp_path)
    assert "AP –, AP50 –" in page.words


@pytest.mark.parametrize("name", ["<b>bold & $x$ $</b>", "數字", "a" * 60])
def test_any_class_name_can_be_shown(digits_folder, small_model, tmp_path, name, recwarn):
    shutil.copytree(digits_folder, tmp_path / "d")
    file = tmp_path / "d" / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["categories"][3]["name"] = name
    file.write_text(json.dumps(content))
    page = page_of(evaluated(tmp_path / "d", small_model, true_box), tmp_path)
    assert name in page.words
    assert not recwarn


def test_of_many_classes_the_most_confused_are_in_the_matrix(digits_folder, small_model, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    file = tmp_path / "d" / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["categories"] += [{"id": 100 + i, "name": f"more {i}"} for i in range(30)]
    file.write_text(json.dumps(content))
    page = page_of(evaluated(tmp_path / "d", small_model, true_box), tmp_path)
    assert "Shown are the 20 of 40 classes that are confused most" in page.words


def test_a_place_that_cannot_be_written_is_said(digits_folder, small_model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="report.html cannot be written"):
        write_report(evaluated(digits_folder, small_model, true_box), tmp_path / "file" / "report.html", "x", {})


def lines_of(svg: bytes) -> list[np.ndarray]:
    """The points of every line that is no tick: [[x, y], …] in the picture's units."""
    found = []
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        words = path.get("d", "").replace("M", " ").replace("L", " ").split()
        if path.get("clip-path") and "stroke-linecap" in path.get("style", "") and len(words) >= 4:
            found.append(np.array(words[: len(words) // 2 * 2], dtype=float).reshape(-1, 2))
    return found


def test_a_band_is_the_mean_between_the_lowest_and_the_highest_of_runs_of_any_length():
    svg = plots.learning_curves([plots.Band("a", [[0.2, 0.4, 0.6], [0.4, None]]), plots.Band("b", [[0.1]])], "AP")
    assert ElementTree.fromstring(svg) is not None
    assert b">a</text>" in svg
    assert b">b</text>" in svg
    mean = next(line for line in lines_of(svg) if len(line) == 3)
    heights = mean[:, 1]  # 0.3, 0.4, 0.6 upwards
    assert (heights[0] - heights[1]) * 2 == pytest.approx(heights[1] - heights[2], rel=1e-3)


def test_a_plot_of_nothing_is_a_plot():
    nothing = Thresholds(np.zeros(0), np.zeros(0), np.zeros(0))
    for svg in (
        plots.score_curves(nothing, None),
        plots.precision_recall(np.full((10, 101, 2, 4), -1.0), ["a", "b"]),
        plots.learning_curves([plots.Band("a", [[None, None]])], "AP"),
    ):
        assert ElementTree.fromstring(svg) is not None


def test_the_same_plot_has_the_same_bytes():
    bands = [plots.Band("a", [[0.1, 0.2]])]
    assert plots.learning_curves(bands, "AP") == plots.learning_curves(bands, "AP")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (75, "1 min 15 s"), (1640, "27 min"), (7300, "2 h 2 min")])
def test_a_duration_is_told_in_few_words(seconds: float, text: str):
    assert duration(seconds) == text
