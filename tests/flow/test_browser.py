"""The pages as a browser shows them: nothing is cut off on a phone, on a screen or on paper, and nothing fails to load."""

import json
import subprocess
from pathlib import Path

import pytest

from browsers import BROWSER, OFFLINE, needs_browser
from conditional_detr.data.index import load_split
from conditional_detr.evaluation.coco import Evaluation, coco_evaluate
from conditional_detr.evaluation.report import write_report

ASK = """<script>
const broken = [...document.images].filter(i => !i.naturalWidth).length;
document.title = JSON.stringify({wide: document.documentElement.scrollWidth, window: innerWidth, broken});
</script>"""

pytestmark = needs_browser


def browse(page: Path, tmp_path: Path, *options: str) -> str:
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [BROWSER, "--headless", *OFFLINE, profile, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture
def page(digits_folder, small_model, tmp_path) -> Path:
    index = load_split(digits_folder, "valid")
    rows = json.loads(index.file.read_text())["annotations"]
    detections = [{key: row[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.7} for row in rows[::2]]
    history = [
        {"epoch": i, "loss": 1.0, "loss_ce": 1.0, "loss_bbox": 1.0, "loss_giou": 1.0, "lr": 1e-4, "seconds": 1.0}
        | {"AP": 0.1, "AP50": 0.1, "AP75": 0.1}
        for i in range(1, 30)
    ]
    evaluation = Evaluation(small_model, index, "valid", detections, coco_evaluate(index.file, detections), 1.0)
    facts = {"data": "/a/very/long/path/without/any/place/to/break/" + "x" * 80}
    write_report(evaluation, tmp_path / "report.html", "Run " + "x" * 70, facts, history, "a = 1\n" * 50)
    return tmp_path / "report.html"


@pytest.mark.parametrize("width", [500, 1280])
def test_no_part_of_a_report_is_wider_than_the_window(page, tmp_path, width: int):
    asking = tmp_path / "asking.html"
    asking.write_text(page.read_text().replace("</body>", f"{ASK}</body>").replace("<details>", "<details open>"))
    dom = browse(asking, tmp_path, f"--window-size={width},900", "--dump-dom")
    told = json.loads(dom.split("<title>")[1].split("</title>")[0].replace("&quot;", '"'))
    assert told["broken"] == 0
    assert told["wide"] <= told["window"]


def test_a_report_can_be_printed(page, tmp_path):
    browse(page, tmp_path, f"--print-to-pdf={tmp_path / 'report.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
