"""A server in the process of a test, and a client that speaks plain HTTP."""

import http.client
import io
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from conditional_detr.inference.detector import Detector
from conditional_detr.serving.app import Service
from conditional_detr.serving.limits import Access, Limits
from conditional_detr.serving.server import Server, access_of, configured, listen

DEFAULT = Limits()


class Answer(NamedTuple):
    """Answer of a server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        detail: str = self.content["detail"]
        return detail


class Client:
    """Sends requests to a server on a port of this machine, each in a connection of its own."""

    def __init__(self, port: int, service: Service, lines: list[str]) -> None:
        self.port, self.service, self.lines = port, service, lines
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})

    def predict(self, *files: tuple[str, bytes], query: str = "", path: str = "/predict", **headers: str) -> Answer:
        body, kind = form(files)
        return self.ask("POST", path + query, body, {"Content-Type": kind} | headers)

    def raw(self, content: bytes, seconds: float = 10) -> bytes:
        """Send bytes, and return all that comes back until the server closes the connection."""
        with self.connected(seconds) as connection:
            connection.sendall(content)
            return rest_of(connection)

    def connected(self, seconds: float = 10) -> socket.socket:
        """A connection on which nothing has been sent yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)


def rest_of(connection: socket.socket) -> bytes:
    """All that comes back until the server closes the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def png(height: int = 40, width: int = 60, seed: int = 0) -> bytes:
    """A PNG file of random pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def form(files: Sequence[tuple[str, bytes]], field: str = "images") -> tuple[bytes, str]:
    """Body and content type of a form with files."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@contextmanager
def serving(
    detector: Detector,
    limits: Limits = DEFAULT,
    access: Access | None = None,
    conf: float | None = None,
) -> Iterator[Client]:
    """Serve a model on a free port, in a thread."""
    access = access_of("127.0.0.1", "", False, [], []) if access is None else access
    lines: list[str] = []
    service, opened = Service(detector, "cells", limits, conf), listen("127.0.0.1", 0)
    server = Server(configured(service, access, lines.append), service)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Client(opened.getsockname()[1], service, lines)
    finally:
        server.should_exit = True
        thread.join(30)
        service.close()
