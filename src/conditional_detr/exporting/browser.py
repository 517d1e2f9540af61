"""Run an export for browsers in a headless Chromium, to prove that it finds what its model finds."""

import functools
import io
import json
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from conditional_detr.errors import CheckpointError
from conditional_detr.images.decoding import ImageInput
from conditional_detr.inference.progress import Report, unreported

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge")
OPTIONS = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--mute-audio",
)  # fmt: skip
PATIENCE_S = 300.0  # longest time between two messages of the page
TIMED = 10  # images whose time is measured
TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}


class BrowserResult(NamedTuple):
    """What a browser found.

    Attributes
    ----------
    found : detections of each image that the browser could read, as in `postprocess`, by position
    sizes_hw : height and width of these images, px
    ms : median time of an image, from its file to its boxes, in ms
    browser : its name and version
    """

    found: dict[int, dict[str, np.ndarray]]
    sizes_hw: dict[int, tuple[int, int]]
    ms: float
    browser: str


def find_browser() -> str | None:
    """Path of a Chromium, or of a browser made of it. None if there is none on the PATH."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def run_in_browser(folder: Path, images: Sequence[ImageInput], browser: str, report: Report = unreported) -> BrowserResult:
    """Detect objects in images with an export for browsers.

    Raises
    ------
    CheckpointError : the page does not work in the browser
    """
    messages: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    with served(folder, images, messages) as address, started(browser, f"{address}/proof.html"):
        results, times, problem = dict[int, dict[str, Any]](), list[float](), None
        while True:
            try:
                path, content = messages.get(timeout=PATIENCE_S)
            except queue.Empty:
                raise CheckpointError(f"{browser} did not answer for {PATIENCE_S:.0f} s") from None
            if path == "end":
                problem = content.get("error")
                break
            if path.startswith("time/"):
                times.append(float(content["ms"]))
                continue
            report(f"proof: detections in the browser, image {len(results) + 1} of {len(images)}")
            results[int(path)] = content
    if problem is not None:
        raise CheckpointError(f"the page does not work in {browser}: {problem}")
    read = {number: result for number, result in results.items() if "error" not in result}
    return BrowserResult(
        {number: _record(result["detections"]) for number, result in read.items()},
        {number: (result["size"][0], result["size"][1]) for number, result in read.items()},
        median(times) if times else 0.0,
        _version(browser),
    )


def _record(detections: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {
        "scores": np.array([each["score"] for each in detections], dtype=np.float32),
        "labels": np.array([each["label"] for each in detections], dtype=np.int64),
        "boxes": np.array([each["box"] for each in detections], dtype=np.float32).reshape(-1, 4),
    }


@contextmanager
def served(folder: Path, images: Sequence[ImageInput], messages: "queue.Queue[tuple[str, dict[str, Any]]]") -> Iterator[str]:
    """Serve an export with the page of its proof and the images, on this machine only. Yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(ProofHandler, folder, images, messages))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ProofHandler(SimpleHTTPRequestHandler):
    """Answers the requests of the page `proof.html`."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | TYPES

    def __init__(
        self,
        folder: Path,
        images: Sequence[ImageInput],
        messages: "queue.Queue[tuple[str, dict[str, Any]]]",
        *request: Any,
    ) -> None:
        self.images, self.messages = images, messages
        super().__init__(*request, directory=str(folder))

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        if path in ("proof.html", "proof.js"):
            self._send(
                files("conditional_detr").joinpath("page", "local", path).read_bytes(),
                "text/html" if path.endswith("l") else TYPES[".js"],
            )
        elif path == "proof/images":
            timed = list(range(min(TIMED, len(self.images))))
            self._send(json.dumps({"images": len(self.images), "timed": timed}).encode(), "application/json")
        elif (match := re.fullmatch(r"proof/(\d+)", path)) and int(match[1]) < len(self.images):
            self._send(content_of(self.images[int(match[1])]), "application/octet-stream")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.messages.put((self.path.removeprefix("/proof/"), content))
        self._send(b"{}", "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def content_of(image: ImageInput) -> bytes:
    """Content of an image file; an array or a PIL image as PNG."""
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, "PNG")
    return file.getvalue()


@contextmanager
def started(browser: str, url: str) -> Iterator[None]:
    """Open a page in a headless browser with a new profile, which is removed at the end."""
    sandbox = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()  # Chromium refuses it as root
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *OPTIONS, *sandbox, f"--user-data-dir={profile}", url]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _version(browser: str) -> str:
    found = subprocess.run([browser, "--version"], capture_output=True, text=True, check=False, timeout=30)
    return found.stdout.strip() or Path(browser).name
