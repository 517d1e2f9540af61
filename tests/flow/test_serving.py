"""`cdetr serve` as a process: it answers, logs, and ends in order."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from servers import form, png

NAME = "conditional-detr-tiny-digits"
COMMAND = [sys.executable, "-W", "error", "-m", "conditional_detr", "serve"]


@contextmanager
def started(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server process and its port."""
    output, log = folder / "output", folder / "log"
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen([*COMMAND, NAME, "--port", "0", *options], stdout=out, stderr=err)
    try:
        while not (found := re.search(r"http://127.0.0.1:(\d+)/predict", output.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        port = int(found[1])
        while True:
            try:
                assert ask(port, "GET", "/health/ready") == (200, b'{"status":"ready"}')
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.wait()


def ask(port: int, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": kind, "Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_requests_that_have_begun_are_finished_after_sigterm(tmp_path):
    body, kind = form([("a.png", png(300, 400))])
    with (
        started(tmp_path) as (process, port),
        ThreadPoolExecutor(16) as pool,
        socket.create_connection(("127.0.0.1", port)) as late,
    ):
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        late.sendall(head.encode() + body[:1000])

        signalled = threading.Event()

        def work() -> list[int]:
            """Statuses of requests, one after the other, until the server is gone."""
            statuses = []
            while True:
                is_late = signalled.is_set()
                try:
                    statuses.append(ask(port, "POST", "/predict", body, kind)[0])
                except (ConnectionError, http.client.RemoteDisconnected):
                    assert is_late  # what comes when the socket closes may be cut off, but nothing that has begun before
                    return statuses

        going = [pool.submit(work) for _ in range(16)]
        while (tmp_path / "log").read_text().count("/predict") < 32:
            time.sleep(0.05)
        signalled.set()
        process.send_signal(signal.SIGTERM)
        late.sendall(body[1000:])
        assert late.recv(100).startswith(b"HTTP/1.1 200")
        statuses = [each.result() for each in going]
        assert process.wait(60) == 0
    assert {status for each in statuses for status in each} == {200, 503}
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"request_id", "method", "path", "status", "ms"} <= set(lines[-1])
    assert all(line["detail"] == "the server is shutting down" for line in lines if line["status"] == 503)


def test_a_second_signal_ends_it_at_once(tmp_path):
    with started(tmp_path) as (process, port), socket.create_connection(("127.0.0.1", port)) as waiting:
        waiting.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n")
        waiting.sendall(b"Content-Length: 900\r\n\r\n--x")
        process.send_signal(signal.SIGINT)
        while ask(port, "GET", "/health/ready")[0] != 503:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_options_reach_the_server(tmp_path):
    options = {"--conf": 0.4, "--max-bytes": 20_000, "--max-pixels": 4_000, "--max-images": 2, "--queue": 2}
    with started(tmp_path, *(str(part) for option in options.items() for part in option)) as (_, port):
        model = json.loads(ask(port, "GET", "/model")[1])
        assert model["thresholds"] == [0.4] * len(model["class_names"])
        for files, expected in (
            ([png(200, 200)], (413, "a request must not be larger than 0.02 MB")),
            ([png(50, 81)], (400, "0.png must not have more than 4000 pixels: it has 81 x 50")),
            ([png(8, 8)] * 3, (400, "the form has too many files: at most 2")),
        ):
            status, answer = ask(port, "POST", "/predict", *form([(f"{i}.png", file) for i, file in enumerate(files)]))
            assert (status, json.loads(answer)["detail"]) == expected


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--host", "0.0.0.0"], "can be reached from other machines: set a token"),
        (["--max-images", "9", "--queue", "3"], "the queue must have room for the images of a request"),
        (["--conf", "1.5"], "conf must be in [0, 1], not 1.5"),
        (["--max-bytes", "0"], "--max-bytes must be at least 1, not 0"),
        (["--port", "TAKEN"], "cannot be used"),
        (["--port", "99999"], "--port must be from 0 to 65535, not 99999"),
        (["--port=-1"], "--port must be from 0 to 65535, not -1"),
        (["--host", "no.such.name.invalid", "--token", "s3cret"], "cannot be used"),
    ],
)
def test_what_cannot_work_is_said(options: list[str], text: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        given = [option.replace("TAKEN", str(taken.getsockname()[1])) for option in options]
        done = subprocess.run(
            [*COMMAND, NAME, *given], capture_output=True, text=True, env=os.environ | {"CDETR_TOKEN": ""}, timeout=100
        )
    assert done.returncode == 2
    assert text in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
