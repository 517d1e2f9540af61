"""The server process: its socket, its signals and its log."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from types import FrameType

import uvicorn

from conditional_detr.errors import ConfigError, RunError
from conditional_detr.inference.detector import Detector
from conditional_detr.serving.app import Service, create_app
from conditional_detr.serving.connections import Connection
from conditional_detr.serving.guard import to_stderr
from conditional_detr.serving.limits import Access, Limits

LAST_PORT = 65_535
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
DRAIN_SECONDS = 1.0  # time after SIGTERM in which new requests are still answered, with 503
BACKLOG = 2048


def access_of(host: str, token: str, no_auth: bool, hosts: list[str], origins: list[str]) -> Access:
    """Decide who may use a server on this host.

    Raises
    ------
    ConfigError : another host than localhost needs a token, or the promise that none is wanted
    """
    is_local = host in LOOPBACK
    if not is_local and not token and not no_auth:
        raise ConfigError(
            f"--host {host} can be reached from other machines: set a token (--token or the environment variable CDETR_TOKEN), "
            "or say --no-auth"
        )
    if (token and not token.isascii()) or any(c.isspace() for c in token):
        raise ConfigError("the token must be ASCII text without spaces")
    # A container calls itself localhost. Without a token, a page must not let its own name point here (DNS rebinding).
    names = {*LOOPBACK, *hosts} if is_local or hosts or not token else set()
    sites = frozenset(origin.rstrip("/") for origin in origins)
    return Access(token, frozenset(name.lower() for name in names), sites, addresses=not is_local and not hosts)


def listen(host: str, port: int) -> socket.socket:
    """Open the socket of the server.

    Raises
    ------
    ConfigError : there is no such port
    RunError : the address cannot be used
    """
    if not 0 <= port <= LAST_PORT:  # the system would use another one
        raise ConfigError(f"--port must be from 0 to {LAST_PORT}, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        raise RunError(f"{host}, port {port} cannot be used: {getattr(error, 'strerror', None) or error}") from None
    return opened


@contextlib.contextmanager
def sigterm_ends() -> Generator[None, None, None]:
    """Let SIGTERM end the process with exit code 0, before there is a server. In a container it would otherwise be ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        sys.exit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def url_of(opened: socket.socket) -> str:
    """Address of the server, as typed into a browser."""
    host, port = opened.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    detector: Detector, name: str, opened: socket.socket, limits: Limits, access: Access, conf: float | None = None
) -> None:
    """Serve a model until SIGTERM or Ctrl-C. Work that has begun is finished.

    Parameters
    ----------
    detector : the model
    name : what clients are told about it
    opened : socket, see `listen`
    limits, access : what is accepted, and from whom
    conf : score threshold of requests without one; None = the thresholds of the model
    """
    service = Service(detector, name, limits, conf)
    log_as_json()
    try:
        Server(configured(service, access), service).run(sockets=[opened])
    finally:
        closing = threading.Thread(target=service.close, daemon=True)
        closing.start()
        closing.join(limits.seconds)
        if closing.is_alive():  # Python would wait for a thread that does not come to its end
            to_stderr(json.dumps({"level": "warning", "message": "a thread did not end in time"}))
            os._exit(0)


def configured(service: Service, access: Access, log: Callable[[str], None] = to_stderr) -> uvicorn.Config:
    """Settings of uvicorn for a model and those who may use it. `log` receives a line for each request."""
    return uvicorn.Config(
        create_app(service, access, log),
        http=Connection,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(service.limits.seconds) + 5,
    )


class Server(uvicorn.Server):
    """Ends in order after SIGTERM or Ctrl-C: first it is not ready, then it accepts nothing, then it waits for open requests.

    Load balancers need a moment to see that it is not ready, so new requests are answered with 503 until then. A second signal
    ends it at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service, self.ends_at = service, float("inf")

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle the signals. uvicorn would raise them again at the end, so that the exit code is not 0."""
        if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.service.is_ready:
            self.should_exit = self.force_exit = True
        self.service.is_ready = False
        self.ends_at = min(self.ends_at, time.monotonic() + DRAIN_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.ensure_future(self._abort_if_forced())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _abort_if_forced(self) -> None:
        """After a second signal, close the connections: newer Pythons wait for them."""
        while not self.force_exit:
            await asyncio.sleep(0.05)
        for each in list(self.server_state.connections):
            each.transport.abort()  # type: ignore[union-attr]

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or time.monotonic() >= self.ends_at


class JsonFormatter(logging.Formatter):
    """Messages of uvicorn as lines of JSON, like those of requests."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        to_stderr(self.format(record))


def log_as_json() -> None:
    """Send the warnings and errors of the libraries to the log."""
    handler = _ToStderr(logging.WARNING)
    handler.setFormatter(JsonFormatter())
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a client that sends no form is told so
