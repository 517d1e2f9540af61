"""Pages in Chromium. While a page is open, nothing may fail: no errors, no refused content, no requests to other hosts."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from conditional_detr.exporting.browser import find_browser

BROWSER = find_browser()
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is on the PATH, so no page is opened")
OFFLINE = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a moving pattern, and no question
LOCAL = ("blob:", "data:")  # no requests to a server
DROP = """([content, name]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name, {type: "image/png"}));
  document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""
PATIENCE_MS = 30_000  # how long to wait for what must come
expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium with a new profile."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=[*OFFLINE, *CAMERA])
        yield started
        started.close()


@contextmanager
def opened(browser: Browser, address: str, expected: str = "", **window: Any) -> Iterator[Page]:
    """A page in a window of its own, with `address` as its site. Fails at the end if anything went wrong meanwhile.

    Parameters
    ----------
    address : such as http://127.0.0.1:8000
    expected : part of the text of errors that the test causes
    window : options of the window, such as `viewport` and `color_scheme`
    """
    faults: list[str] = []
    context = browser.new_context(**window)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(f"dialogue: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request",
        lambda request: None if request.url.startswith((f"{address}/", *LOCAL)) else faults.append(f"request to {request.url}"),
    )
    page.goto(f"{address}/")
    yield page
    context.close()
    unexpected = [fault for fault in faults if not expected or expected not in fault]
    assert not unexpected, unexpected
    assert not expected or faults, f"there was no error with the text {expected!r}"


def drop(page: Page, content: bytes, name: str) -> None:
    """Drop an image on the page, and wait for its detections."""
    page.evaluate(DROP, [base64.b64encode(content).decode(), name])
    expect(page.locator("#canvas")).to_have_attribute("aria-label", re.compile(f"^{re.escape(name)} with \\d+ detection"))


def violations(page: Page) -> list[str]:
    """What axe-core finds: rules of accessibility that the page breaks, with the elements."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]} {node['failureSummary']}" for each in found for node in each["nodes"]]


def overflow(page: Page) -> float:
    """By how many px the page is wider than its window."""
    wider: float = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return wider
