"""The page of the server, used in Chromium as a person does."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from supervision import Detections

from browsers import DROP, chromium, drop, needs_browser, opened, overflow, violations
from conditional_detr.inference.detector import Detector
from conditional_detr.serving.limits import Access
from servers import Client, serving

SCENE = Path(__file__).parents[2] / "docs" / "images" / "scene.png"
SIDE = 256  # px of the scene
WIDE, PHONE = {"width": 1100, "height": 800}, {"width": 390, "height": 844}
HOSTILE = "<img src=x onerror=alert(1)>"

pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector("conditional-detr-tiny-digits", device="cpu")


@pytest.fixture(scope="module")
def client(detector) -> Iterator[Client]:
    with serving(detector) as made:
        yield made


@pytest.fixture
def page(browser, client) -> Iterator[Page]:
    """The page with an image."""
    with opened(browser, client.address, viewport=WIDE, permissions=["clipboard-read", "clipboard-write"]) as page:
        drop(page, SCENE.read_bytes(), "scene.png")
        yield page


def found_by(detector: Detector, conf: float | None = None) -> Detections:
    return detector(str(SCENE), conf=conf)[0]


def rows(page: Page) -> list[list[str]]:
    """The list of detections: name and score of each."""
    return [text.split("\n") for text in page.locator("#detections li").all_inner_texts()]


def names(page: Page) -> list[str]:
    return [name for name, _ in rows(page)]


def picture(page: Page) -> str:
    """What the canvas shows."""
    content: str = page.evaluate("document.getElementById('canvas').toDataURL()")
    return content


def highest_cell(client: Client, detection: int, part: str, layer: int, head: int) -> tuple[float, float]:
    """Centre of the cell that gets the most attention, in px of the scene."""
    answer = client.predict(("scene.png", SCENE.read_bytes()), path="/explain", query="?conf=0.05").content
    maps = answer["detections"][detection]["maps"]
    shape = [maps[each] for each in ("layers", "heads", "rows", "columns")]
    values = np.frombuffer(base64.b64decode(maps[part]), dtype=np.uint8).reshape(shape)[layer, head]
    row, column = np.unravel_index(values.argmax(), values.shape)
    return (column + 0.5) * maps["cell_width"], (row + 0.5) * maps["cell_height"]


def wait_for_change(page: Page, before: str) -> None:
    """Wait until the canvas shows something else. The page's policy forbids Playwright's own waiting for a condition."""
    for _ in range(200):
        if picture(page) != before:
            return
        page.wait_for_timeout(50)
    raise AssertionError("the canvas shows the same as before")


def pixels(page: Page) -> np.ndarray:
    """What the canvas shows, as RGB [H, W, 3]."""
    file = io.BytesIO(base64.b64decode(picture(page).partition(",")[2]))
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def on_screen(page: Page, box: list[float]) -> list[float]:
    """Corners of a box, xyxy px of the scene, on a canvas that shows the whole scene."""
    room = page.locator("#canvas").bounding_box()
    scale = min(room["width"], room["height"]) / SIDE
    left, top = (room["width"] - SIDE * scale) / 2, (room["height"] - SIDE * scale) / 2
    return [left + box[0] * scale, top + box[1] * scale, left + box[2] * scale, top + box[3] * scale]


def test_a_dropped_image_gets_the_boxes_of_the_detector(page, detector):
    found = found_by(detector)
    assert len(found) == 6
    assert names(page) == found.data["class_name"].tolist()
    assert [float(score) for _, score in rows(page)] == pytest.approx(found.confidence.tolist(), abs=0.006)
    expect(page.locator("#canvas")).to_have_attribute("aria-label", "scene.png with 6 detections")
    shown = pixels(page)
    for place, box in enumerate(found.xyxy.tolist()):
        swatch = page.locator("#detections .swatch").nth(place)
        colour = swatch.evaluate("(each) => getComputedStyle(each).backgroundColor.match(/\\d+/g).map(Number)")
        x0, y0, x1, y1 = on_screen(page, box)
        for x, y in ((x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2), ((x0 + x1) / 2, y1)):
            near = shown[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4]
            assert (np.abs(near - colour).max(-1) < 8).any(), (place, x, y)


def test_an_image_can_be_chosen_and_its_name_shows(browser, client):
    with opened(browser, client.address, viewport=PHONE) as page:
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose images").click()
        chooser.value.set_files([SCENE, SCENE])
        expect(page.locator("#position")).to_have_text("1 of 2")
        expect(page.locator("#status")).to_contain_text("6 of 9 detections are shown")
        page.get_by_role("button", name="Next image").click()
        expect(page.locator("#position")).to_have_text("2 of 2")
        expect(page.locator("#status")).to_contain_text("6 of 9 detections are shown")


def test_the_threshold_changes_what_is_shown(page, detector):
    before = picture(page)
    for conf in (0.05, 0.5, 0.88, 0.95):
        page.get_by_label("Another for all classes").fill(str(conf))
        assert names(page) == found_by(detector, conf).data["class_name"].tolist()
        expect(page.locator("#status")).to_have_text(f"{len(found_by(detector, conf))} of 9 detections are shown.")
    assert picture(page) != before
    page.get_by_label("Another for all classes").press("ArrowLeft")
    expect(page.locator("#threshold-text")).to_have_text("0.94")
    page.get_by_label("as learned for each class").check()
    assert names(page) == found_by(detector).data["class_name"].tolist()
    assert picture(page) == before


def test_the_threshold_of_the_server_is_that_of_the_page(browser, detector):
    with serving(detector, conf=0.02) as client, opened(browser, client.address) as page:
        expect(page.locator("#learned-text")).to_have_text("0.02 for all classes")
        drop(page, SCENE.read_bytes(), "scene.png")
        assert names(page) == found_by(detector, 0.02).data["class_name"].tolist()
        assert len(found_by(detector, 0.02)) > len(found_by(detector, 0.05))


def test_classes_can_be_hidden(page):
    assert "8" in names(page)
    page.get_by_label("8", exact=True).uncheck()
    assert len(names(page)) == 5
    assert "8" not in names(page)
    drop(page, SCENE.read_bytes(), "again.png")  # also in the next image, where they can be shown again
    assert "8" not in names(page)
    page.get_by_label("8", exact=True).check()
    assert "8" in names(page)


def test_the_image_is_zoomed_and_moved(page):
    whole = picture(page)
    page.locator("#canvas").hover()
    for step in (
        lambda: page.keyboard.press("+"),
        lambda: page.keyboard.press("Shift+ArrowLeft"),
        lambda: page.keyboard.press("Shift+ArrowDown"),
        lambda: page.mouse.wheel(0, -200),
        lambda: page.get_by_role("button", name="Zoom in").click(),
        lambda: page.get_by_role("button", name="Zoom out").click(),
    ):
        before = picture(page)
        step()
        wait_for_change(page, before)
    box = page.locator("#canvas").bounding_box()
    before = picture(page)
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 260, box["y"] + 230, steps=3)
    page.mouse.up()
    assert picture(page) != before
    expect(page.locator("#detections [aria-pressed=true]")).to_have_count(0)  # a drag is no click
    page.keyboard.press("0")
    assert picture(page) == whole


def test_everything_is_reached_by_keyboard(page):
    drop(page, SCENE.read_bytes(), "b.png")
    expect(page.locator("#position")).to_have_text("2 of 2")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#position")).to_have_text("1 of 2")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#position")).to_have_text("2 of 2")
    page.keyboard.press("]")
    expect(page.locator("#threshold-text")).to_have_text("0.35")
    page.keyboard.press("[")
    expect(page.locator("#threshold-text")).to_have_text("0.30")
    button = page.locator("#detections button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(button).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#detections [aria-pressed=true]")).to_have_count(0)
    expect(button).to_be_focused()


def test_detections_are_copied_as_json_and_as_coco(page, client, detector):
    page.get_by_role("button", name="Copy as JSON").click()
    expect(page.locator("#status")).to_have_text("Copied as JSON.")
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert copied == client.predict(("scene.png", SCENE.read_bytes())).content
    page.get_by_role("button", name="Copy as COCO").click()
    expect(page.locator("#status")).to_have_text("Copied as COCO.")
    coco = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert coco["images"] == [{"id": 1, "file_name": "scene.png", "width": SIDE, "height": SIDE}]
    assert coco["categories"] == [{"id": i + 1, "name": str(i)} for i in range(10)]
    detections = copied["images"][0]["detections"]
    assert [each["bbox"] for each in coco["annotations"]] == [each["bbox"] for each in detections]
    assert [each["category_id"] for each in coco["annotations"]] == [each["category_id"] for each in detections]


def test_detections_are_copied_where_there_is_no_clipboard(browser, client):
    with opened(browser, client.address, permissions=["clipboard-read"]) as page:
        page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as over HTTP from another machine
        drop(page, SCENE.read_bytes(), "scene.png")
        page.get_by_role("button", name="Copy as JSON").click()
        expect(page.locator("#status")).to_have_text("Copied as JSON.")
        expect(page.get_by_role("button", name="Copy as JSON")).to_be_focused()
        copied = page.evaluate("Navigator.prototype.__lookupGetter__('clipboard').call(navigator).readText()")
        assert len(json.loads(copied)["images"][0]["detections"]) == 6


def test_the_attention_of_a_detection_is_shown_by_part_layer_and_head(page, client, detector):
    expect(page.locator("#attention")).to_be_hidden()
    x0, y0, x1, y1 = on_screen(page, found_by(detector).xyxy[2].tolist())
    page.locator("#canvas").click(position={"x": (x0 + x1) / 2, "y": (y0 + y1) / 2})
    expect(page.locator("#detections button").nth(2)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Head")).to_be_enabled()
    assert page.get_by_label("Part").locator("option").all_inner_texts() == ["combined", "spatial", "content"]
    assert page.get_by_label("Layer").locator("option").count() == detector.model.config.decoder_layers
    assert page.get_by_label("Head").locator("option").count() == detector.model.config.num_heads
    seen = {picture(page)}
    for label, place in (("Part", 1), ("Part", 2), ("Layer", 0), ("Head", 5)):
        page.get_by_label(label).select_option(index=place)
        seen.add(picture(page))
    assert len(seen) == 5
    x, y = highest_cell(client, detection=2, part="content", layer=0, head=5)
    x, y, _, _ = on_screen(page, [x, y, x, y])
    red, green, blue = pixels(page)[round(y), round(x)]
    assert red > 200 > green + 60 > blue + 90  # orange, over whatever is there
    page.keyboard.press("Escape")
    expect(page.locator("#attention")).to_be_hidden()


def test_the_camera_takes_pictures(browser, client):
    with opened(browser, client.address, permissions=["camera"]) as page:
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#video")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#drop")).to_be_visible()
        page.get_by_role("button", name="Use the camera").click()
        for place in (1, 2):
            page.get_by_role("button", name="Take a picture").click()
            expect(page.locator("#position")).to_have_text(f"{place} of {place}")
            expect(page.locator("#status")).to_contain_text("detections are shown")
            expect(page.locator("#video")).to_be_hidden()
            if place == 1:
                page.get_by_role("button", name="Camera").click()


def test_a_file_that_is_no_image_is_refused_with_the_reason(browser, client):
    with opened(browser, client.address, expected="status of 400") as page:
        page.evaluate(DROP, [base64.b64encode(b"hello").decode(), "hello.png"])
        expect(page.locator("#status")).to_contain_text("hello.png cannot be read as an image")
        expect(page.locator("#status")).to_have_class("bad")
        drop(page, SCENE.read_bytes(), "scene.png")
        assert len(names(page)) == 6


def test_names_of_classes_and_files_are_text(browser, client, detector, monkeypatch):
    monkeypatch.setattr(detector.model, "class_names", [HOSTILE, *detector.model.class_names[1:]])
    with opened(browser, client.address) as page:
        drop(page, SCENE.read_bytes(), f"{HOSTILE}.png")
        assert names(page)[0] == HOSTILE
        assert page.locator("img").count() == 0


def test_a_token_is_given_in_the_browsers_own_dialogue(browser, detector):
    with (
        serving(detector, access=Access("s3cret", frozenset({"127.0.0.1"}))) as client,
        opened(browser, client.address, http_credentials={"username": "any", "password": "s3cret"}) as page,
    ):
        drop(page, SCENE.read_bytes(), "scene.png")
        assert len(names(page)) == 6


@pytest.mark.parametrize("window", [WIDE, PHONE], ids=["1100", "390"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits_the_window(browser, client, window: dict[str, int], scheme: str):
    with opened(browser, client.address, viewport=window, color_scheme=scheme) as page:
        expect(page.locator("#model")).to_contain_text("10 classes")
        assert violations(page) == []
        drop(page, SCENE.read_bytes(), "a-long-name-without-a-place-to-break" * 4 + ".png")
        page.locator("#detections button").first.click()
        expect(page.get_by_label("Head")).to_be_enabled()
        page.get_by_text("Keyboard").click()
        assert violations(page) == []
        assert overflow(page) <= 0
        back = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (sum(back) < 200) is (scheme == "dark")
