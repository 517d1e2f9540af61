"""Exports for browsers: the page of the folder finds what the model finds, without a network."""

import base64
import io
import json
import queue
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, expect

from browsers import chromium, drop, needs_browser, opened, violations
from conditional_detr.data.index import load_split
from conditional_detr.exporting.browser import served
from conditional_detr.exporting.export import Exporter
from conditional_detr.images.array_preprocessing import collate_arrays, prepare_array
from conditional_detr.images.decoding import decode_array
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.results import not_suppressed
from conditional_detr.inference.tiles import Record, Tiling, merged, windows
from conditional_detr.weights.save import save_model
from exported import labelled_by
from models import perturbed, small

# The input of the network that the page makes of an image file: its values, height and width
INPUT = """async (content) => {
  const { input } = await import("./backend.js");
  const made = await input(new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))]));
  return [Array.from(made.images), Array.from(made.padding), made.height, made.width];
}"""
WINDOWS = 'async (given) => (await import("./postprocess.js")).windows(...given)'
JOINED = """async ([parts, size, tile, overlap]) => {
  const { merged, windows } = await import("./postprocess.js");
  return merged(parts, windows(size, tile, overlap), tile, overlap);
}"""
SUPPRESSED = 'async (given) => (await import("./postprocess.js")).notSuppressed(...given)'


class Exported(NamedTuple):
    """An export, the model that it was made from, and images."""

    web: Path
    model: Path
    images: list[Path]
    address: str


@pytest.fixture(scope="module")
def exported(tmp_path_factory, digits_folder) -> Iterator[Exported]:
    """An export whose images are larger than a tile, served as a folder of static files."""
    folder = tmp_path_factory.mktemp("web")
    torch.manual_seed(1)
    model = perturbed(small(num_classes=10, num_queries=12, encoder_layers=1, decoder_layers=1, hidden_dim=32))
    with torch.no_grad():
        model.class_head.bias += 4  # some boxes with a score that counts as sure
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 64, "tile": 48})
    model.class_names, model.category_ids = [str(i) for i in range(10)], list(range(1, 11))
    save_model(model, folder / "model")
    labelled_by(folder / "model", digits_folder, folder / "data")
    command = ("export", folder / "model", folder / "web", "--format", "web", "--precision", "fp32", "--data", folder / "data")
    done = subprocess.run([sys.executable, "-m", "conditional_detr", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "python -m http.server" in done.stdout
    assert (folder / "web" / "ort").stat().st_mode == (folder / "web").stat().st_mode  # other users can open it too
    images = [Path(path) for path in load_split(folder / "data", "valid").paths]
    with served(folder / "web", [], queue.Queue()) as address:
        yield Exported(folder / "web", folder / "model", images, address)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@needs_browser
def test_the_proof_comes_from_a_browser(exported):
    proof = json.loads((exported.web / "proof.json").read_text())
    assert (proof["passed"], proof["images"], proof["unreadable"]) == (True, 6, 0)
    assert proof["run_by"].startswith("ONNX Runtime Web in ")
    assert abs(proof["AP"]["drop"]) < 1e-9 < 0.5 < proof["AP"]["original"]
    boxes = proof["boxes"]
    assert boxes["matched"] == boxes["original"] == boxes["exported"] > 10
    assert boxes["least_iou"] > 0.999
    assert boxes["score_difference"]["max"] < 1e-4
    assert proof["latency_ms"]["exported"] > 0


def test_without_a_browser_the_proof_says_so(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr("conditional_detr.exporting.export.find_browser", lambda: None)
    proof = Exporter(small_model, "web", None).prove(tmp_path, "fp32", 0.005)
    assert proof["passed"] is None
    assert proof["fault"] == "no Chromium was found on the PATH: install one and export again to prove the result"


def files() -> list[bytes]:
    """Images that are made larger, smaller, rotated by their EXIF data, and of a single colour channel."""
    rng = np.random.default_rng(0)
    made = []
    for size, mode, kind, turned in (
        ((40, 50), "RGB", "PNG", 1), ((150, 201), "RGB", "PNG", 1), ((90, 160), "RGB", "JPEG", 6), ((70, 64), "L", "PNG", 1)
    ):  # fmt: skip
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode)
        exif = Image.Exif()
        exif[0x0112] = turned
        image.save(file := io.BytesIO(), kind, exif=exif)
        made.append(file.getvalue())
    return made


@needs_browser
def test_pixels_differ_from_those_of_python_by_at_most_one(exported, browser):
    config = Detector(exported.web).model.preprocessor
    std = np.array(config.std, dtype=np.float32).reshape(1, 3, 1, 1)
    with opened(browser, exported.address) as page:
        for content in files():
            expected, padding = collate_arrays([prepare_array(decode_array(Image.open(io.BytesIO(content))), config)], config)
            values, is_padding, height, width = page.evaluate(INPUT, base64.b64encode(content).decode())
            assert (height, width) == expected.shape[2:]
            assert np.array_equal(np.array(is_padding, bool).reshape(padding.shape), padding)
            differences = np.abs(np.array(values, np.float32).reshape(expected.shape) - expected) * std * 255
            assert differences.max() < 1.001


def parts_of(height: int, width: int, tiling: Tiling, seed: int) -> list[Record]:
    """Detections in each window of an image: 100 boxes of 3 to 300 px, many of them at the cuts and on each other."""
    rng, parts = np.random.default_rng(seed), []
    for window in windows(height, width, tiling):
        sides = np.array(window.size_hw[::-1])
        centre, half = rng.uniform(0, 1, (100, 2)) * sides, 10 ** rng.uniform(0.5, 2.5, (100, 2)) / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1).clip(0, np.tile(sides, 2)).astype(np.float32)
        scores = np.sort(rng.uniform(0, 1, 100).astype(np.float32))[::-1]
        parts.append({"boxes": boxes, "labels": rng.integers(0, 2, 100), "scores": scores})
    return parts


def as_given(part: Record) -> list[dict[str, Any]]:
    """Detections as the scripts of the page have them."""
    rows = zip(*(part[key].tolist() for key in ("scores", "labels", "boxes")), strict=True)
    return [{"score": score, "label": label, "box": box} for score, label, box in rows]


@needs_browser
def test_tiles_are_cut_and_joined_as_in_python(exported, browser):
    with opened(browser, exported.address) as page:
        for height, width, tiling in ((300, 500, Tiling(300)), (301, 777, Tiling(120, 0.3)), (90, 50, Tiling(64, 0.0))):
            places = windows(height, width, tiling)
            assert page.evaluate(WINDOWS, [[height, width], *tiling]) == [place._asdict() for place in places]
            parts = parts_of(height, width, tiling, seed=1)
            expected = merged(parts, places, tiling)
            found = page.evaluate(JOINED, [list(map(as_given, parts)), [height, width], *tiling])
            assert [each["score"] for each in found] == expected["scores"].tolist()
            np.testing.assert_allclose([each["box"] for each in found], expected["boxes"], atol=1e-3)


@needs_browser
def test_overlapping_boxes_are_left_out_as_in_python(exported, browser):
    (part,) = parts_of(300, 300, Tiling(), seed=1)
    kept = not_suppressed(part["boxes"], part["labels"], part["scores"], 0.3)
    assert 0 < kept.sum() < len(kept)
    with opened(browser, exported.address) as page:
        found = page.evaluate(SUPPRESSED, [as_given(part), 0.3])
    assert [each["score"] for each in found] == part["scores"][kept].tolist()


@needs_browser
def test_the_page_finds_what_the_model_finds_without_a_network(exported, browser):
    with opened(browser, exported.address) as page:
        expect(page.locator("#model")).to_contain_text("model: 10 classes", timeout=60_000)
        page.context.set_offline(True)
        for path in exported.images[:2]:
            drop(page, path.read_bytes(), path.name)
            (expected,) = Detector(exported.model)(str(path))
            found = [text.split("\n") for text in page.locator("#detections li").all_inner_texts()]
            assert [name for name, _ in found] == expected.data["class_name"].tolist()
            assert [float(score) for _, score in found] == pytest.approx(expected.confidence.tolist(), abs=0.006)
            assert len(found) > 5
        page.locator("#detections button").first.click()
        expect(page.locator("#detections [aria-pressed=true]")).to_have_count(1)
        expect(page.locator("#attention")).to_be_hidden()  # an export has none
        assert violations(page) == []
