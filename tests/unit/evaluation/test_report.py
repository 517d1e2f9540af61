"""The report: one page without scripts, for any evaluation, and images of plots that hold what they say."""

import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from conditional_detr.data.index import load_split
from conditional_detr.errors import RunError
from conditional_detr.evaluation import plots
from conditional_detr.evaluation.coco import Evaluation, coco_evaluate
from conditional_detr.evaluation.greedy_matching import Thresholds
from conditional_detr.evaluation.pages import duration
from conditional_detr.evaluation.report import FIGURE_MEANINGS, _advice, _classes, _most_confused, facts, typed, write_report

HISTORY = [
    {"epoch": i + 1, "loss": 9.0 - i, "loss_ce": 1.0, "loss_bbox": 0.5, "loss_giou": 0.7, "lr": 1e-4, "seconds": 2.0}
    | {"AP": ap, "AP50": ap, "AP75": None}
    for i, ap in enumerate([None, 0.2, 0.1])
]


class Page(HTMLParser):
    """What a browser would fetch or run, the images, and the words."""

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
    return Evaluation(model, index, "valid", detections, coco_evaluate(index.file, detections), 1.5)


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
    for name in FIGURE_MEANINGS:
        assert name in page.words
    assert "Best of 3 epochs: epoch 2." in page.words
    assert "Table of all epochs" in page.words
    assert "epochs = 3" in page.words


def test_perfect_detections_are_told_as_such(digits_folder, small_model, tmp_path):
    page = page_of(evaluated(digits_folder, small_model, true_box), tmp_path)
    assert "AP 1.000 (95 % interval 1.000 to 1.000), AP50 1.000 on the 6 images" in " ".join(page.words.split())
    assert "There is no error in any image" in page.words
    assert "The highest F1 is 1.00, at --conf 0.5 (precision 1.00, recall 1.00)" in page.words
    assert "Learning curves" not in page.words


def test_detections_of_nothing_are_told_as_such(digits_folder, small_model, tmp_path):
    page = page_of(evaluated(digits_folder, small_model, lambda annotation: []), tmp_path)
    assert "No object was detected at IoU 0.5 at any score" in page.words
    assert "The dashed line" not in page.words
    assert "AP 0.000" in page.words
    objects = len(load_split(digits_folder, "valid").labels)
    assert sum(map(int, re.findall(r"(\d+) missed,", page.words))) == objects


def test_images_without_any_object(digits_folder, small_model, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    file = tmp_path / "d" / "valid" / "_annotations.coco.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    page = page_of(evaluated(tmp_path / "d", small_model, true_box), tmp_path)
    assert "AP –, AP50 –" in page.words
    assert "These images have no objects" in page.words


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


def test_classes_have_their_own_figures_by_size(digits_folder, small_model, tmp_path):
    evaluation = evaluated(digits_folder, small_model, lambda a: true_box(a) if a["category_id"] == 4 else [])
    rows = {row["name"]: row for row in _classes(evaluation)}
    boxes = evaluation.index.boxes_xyxy[evaluation.index.labels == 3]
    small = (boxes[:, 2:] - boxes[:, :2]).prod(1) < 32**2
    assert rows["3"]["objects"] == len(boxes)
    assert (rows["3"]["AP"], rows["3"]["AP50"]) == (pytest.approx(1), pytest.approx(1))
    assert (rows["3"]["small"] is not None) == small.any()
    assert (rows["3"]["medium"] is not None) == (~small).any()
    assert rows["3"]["large"] is None
    assert all(row["AP"] in (0, None) for name, row in rows.items() if name != "3")


def test_the_most_confused_classes_are_kept_with_the_background():
    counts = np.zeros((31, 31), dtype=int)
    counts[np.arange(31), np.arange(31)] = 100
    counts[29, 3], counts[30, 5] = 7, 50  # a 29 taken for a 3; detections of nothing make no class confused
    kept, names, note = _most_confused(counts, [f"c{i}" for i in range(30)])
    assert names == [*(f"c{i}" for i in range(19)), "c29", "no object"]
    assert kept[19, 3] == 7
    assert kept[20, 5] == 50
    assert "20 most confused of 30" in note


@pytest.mark.parametrize(
    ("score", "text"),
    [(0.4178, "0.41"), (0.29, "0.29"), (0.57, "0.57"), (0.01519, "0.015"), (0.1, "0.1"), (0.000123, "0.00012")],
)
def test_a_score_is_told_so_that_it_keeps_what_it_kept(score: float, text: str):
    assert f"{typed(score):g}" == text
    assert typed(score) <= score


def test_the_advice_tells_what_its_own_score_gives():
    scores = np.array([0.011, 0.0149, 0.0151, 0.4])
    curves = Thresholds(scores, np.array([0.1, 0.2, 0.95, 1.0]), np.array([1.0, 0.9, 0.8, 0.005]))
    first, second = _advice(curves, typed(0.0151), 10)
    assert first == "The highest F1 is 0.87, at --conf 0.015 (precision 0.95, recall 0.80)."
    assert second == "From --conf 0.015 (precision 0.95, recall 0.80) on, about 90 % of the detections are correct."
    assert curves.at(0.5) == (1.0, 0.0)
    poor = Thresholds(scores, np.array([0.01, 0.01, 0.02, 0.1]), np.full(4, 0.05))
    assert "Train it longer" in _advice(poor, 0.4, 10)[1]
    assert curves.at(0.0) == (0.1, 1.0)


def test_a_first_epoch_without_terms_is_a_gap(digits_folder, small_model, tmp_path):
    bare = {key: value for key, value in HISTORY[0].items() if not key.startswith("loss_")} | {"loss": None}
    page = page_of(evaluated(digits_folder, small_model, true_box), tmp_path, history=[bare, *HISTORY[1:]])
    assert "Best of 3 epochs" in page.words


def test_of_many_classes_the_most_confused_are_in_the_matrix(digits_folder, small_model, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    file = tmp_path / "d" / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["categories"] += [{"id": 100 + i, "name": f"more {i}"} for i in range(30)]
    file.write_text(json.dumps(content))
    page = page_of(evaluated(tmp_path / "d", small_model, true_box), tmp_path)
    assert "Only the 20 most confused of 40 classes are shown" in page.words


def test_a_place_that_cannot_be_written_is_said(digits_folder, small_model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="report.html cannot be written"):
        write_report(evaluated(digits_folder, small_model, true_box), tmp_path / "file" / "report.html", "x", {})


def lines_of(svg: bytes) -> list[np.ndarray]:
    """The points of every line that is no tick: [[x, y], …] in the image's units."""
    found = []
    for path in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}path"):
        words = path.get("d", "").replace("M", " ").replace("L", " ").split()
        if path.get("clip-path") and "stroke-linecap" in path.get("style", "") and len(words) >= 4:
            found.append(np.array(words[: len(words) // 2 * 2], dtype=float).reshape(-1, 2))
    return found


def test_a_band_is_the_mean_of_its_runs_as_far_as_all_of_them_ran():
    bands = [plots.Band("a", [[0.2, 0.4, 0.9, 1.0], [0.4, 0.4, 0.5]]), plots.Band("_b", [[0.1]])]
    svg = plots.learning_curves(bands, "AP")
    assert b">a</text>" in svg
    assert "_b</text>" in svg.decode()
    mean = next(line for line in lines_of(svg) if len(line) == 3)
    heights = mean[:, 1]  # 0.3, 0.4, 0.7 upwards
    assert (heights[0] - heights[1]) * 3 == pytest.approx(heights[1] - heights[2], rel=1e-3)


def test_a_plot_of_nothing_is_a_plot():
    nothing = Thresholds(np.zeros(0), np.zeros(0), np.zeros(0))
    for svg in (
        plots.score_curves(nothing, None),
        plots.precision_recall(np.full((10, 101, 2, 4), -1.0), ["a", "b"]),
        plots.learning_curves([plots.Band("a", [[None, None]])], "AP"),
    ):
        assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_long_names_are_wrapped_and_never_cut(recwarn):
    names = [f"{i} " + "x" * 100 for i in range(10)]
    for svg in (plots.confusion_matrix(np.eye(10, dtype=int), names), plots.precision_recall(np.ones((10, 101, 10, 4)), names)):
        assert sum(text.count("x") for text in re.findall(r">([^<]*)</t", svg.decode())) >= 10 * 100
    assert not recwarn


def test_the_same_plot_has_the_same_bytes():
    bands = [plots.Band("a", [[0.1, 0.2]])]
    assert plots.learning_curves(bands, "AP") == plots.learning_curves(bands, "AP")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (75, "1 min 15 s"), (1640, "27 min"), (7300, "2 h 2 min")])
def test_a_duration_is_told_in_few_words(seconds: float, text: str):
    assert duration(seconds) == text


def test_classes_that_the_model_does_not_know_are_told(digits_folder, small_model):
    small_model.class_names = ["3", "cat", "7"]
    evaluation = evaluated(digits_folder, small_model, true_box)
    assert evaluation.note == "8 of 10 classes are unknown to the model and count as AP 0: 0, 1, 2, 4, 5, …."
    assert "8 of 10" in facts(evaluation, "m", "d")["note"]
    small_model.class_names, small_model.category_ids = ["0", "1", "2"], [1, 2, 3]
    assert "unknown" in evaluated(digits_folder, small_model, true_box).note


def test_numbers_for_names_are_told_to_be_matched_by_id(tmp_path, digits_folder, small_model):
    shutil.copytree(digits_folder, tmp_path / "d")
    file = tmp_path / "d" / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    for category in content["categories"]:
        category["name"] = "digit " + category["name"]
    file.write_text(json.dumps(content))
    small_model.category_ids = [1, 2, 3]
    note = evaluated(tmp_path / "d", small_model, true_box).note
    assert note.startswith("The model's class names are only numbers")
    small_model.class_names = ["digit 0", "x", "y"]
    assert not evaluated(tmp_path / "d", small_model, true_box).note.startswith("The model's classes have no names")
