"""What every request passes before it reaches an endpoint: host, origin, token, size. Also headers of answers, and the log."""

import hmac
import json
import re
import sys
import time
import uuid
from base64 import b64decode
from binascii import Error as BinasciiError
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conditional_detr.serving.limits import Access, Limits, Refused
from conditional_detr.serving.metrics import Metrics

OPEN_PATHS = ("/health/live", "/health/ready")  # need no token
REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
CHALLENGE = 'Bearer realm="cdetr", Basic realm="cdetr: any name, the token as password"'


class Guard:
    """ASGI middleware around the application.

    Parameters
    ----------
    app : the application
    access : who may use the server
    limits : size of a request
    metrics : counts the requests
    known_paths : paths that have a label of their own in the metrics
    keeps_alive : whether connections stay open after an answer
    log : function that receives a line of JSON for each request
    """

    def __init__(  # noqa: PLR0913 · what a request passes
        self,
        app: ASGIApp,
        access: Access,
        limits: Limits,
        metrics: Metrics,
        known_paths: frozenset[str],
        keeps_alive: Callable[[], bool],
        log: Callable[[str], None],
    ) -> None:
        self.app, self.access, self.limits, self.metrics = app, access, limits, metrics
        self.known_paths, self.keeps_alive, self.log = known_paths, keeps_alive, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no WebSockets
        headers, started, answered = Headers(scope=scope), time.monotonic(), {"status": 500}
        given = headers.get("x-request-id", "")
        identity = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = identity

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered["status"] = message["status"]
                own = MutableHeaders(scope=message)
                own["X-Request-ID"] = identity
                for name, value in SECURITY_HEADERS.items():
                    own.setdefault(name, value)
                if not self.keeps_alive():
                    own["Connection"] = "close"
            await send(message)

        try:
            self.check(scope, headers)
            await self.app(scope, limited(receive, self.limits.upload_bytes), send_with_headers)
        except Refused as error:
            await refusal(error)(scope, receive, send_with_headers)
        finally:
            seconds = time.monotonic() - started
            path = scope["path"] if scope["path"] in self.known_paths else "other"
            self.metrics.answered(path, answered["status"], seconds)
            self.log(
                json.dumps(
                    {
                        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                        "request_id": identity,
                        "method": scope["method"],
                        "path": scope["path"][:200],
                        "status": answered["status"],
                        "ms": round(1000 * seconds, 1),
                        **scope["state"].get("log", {}),
                    }
                )
            )

    def check(self, scope: Scope, headers: Headers) -> None:
        """Check that a request may pass.

        A page of another site can let a browser send requests to a server on localhost. It cannot read `Host` and `Origin` from
        them, nor change them, so they tell such requests apart.

        Raises
        ------
        Refused : it may not
        """
        host = headers.get("host", "")
        if self.access.hosts and host_name(host) not in self.access.hosts:
            raise Refused(421, "the host of the request is not one of this server: add it with --allow-host")
        origin = headers.get("origin")
        if origin is not None and origin not in self.access.origins and origin not in (f"http://{host}", f"https://{host}"):
            raise Refused(403, "requests from pages of other sites are refused")
        if origin is None and headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            raise Refused(403, "requests from pages of other sites are refused")
        if self.access.token and scope["path"] not in OPEN_PATHS and not has_token(headers, self.access.token):
            raise Refused(401, "the header 'Authorization: Bearer TOKEN' is missing, or its token is wrong")
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self.limits.upload_bytes:
            raise Refused(413, f"a request must not be larger than {self.limits.upload_mb:g} MB")


def host_name(host: str) -> str:
    """Name in a `Host` header, in lower case and without the port."""
    return re.sub(r":\d*$", "", host).strip("[]").lower().rstrip(".")


def has_token(headers: Headers, token: str) -> bool:
    """Whether a request has the token, as a bearer token or, from a browser's own dialogue, as the password of any user."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    found = given.strip().encode("utf-8", "replace") if kind.lower() == "bearer" else b""
    if kind.lower() == "basic":
        try:
            found = b64decode(given, validate=True).partition(b":")[2]
        except BinasciiError:
            found = b""
    return hmac.compare_digest(found, token.encode())


def limited(receive: Receive, most: int) -> Receive:
    """Wrap `receive` so that it raises `Refused` as soon as a body is larger than `most` bytes, whatever its header says."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise Refused(413, f"a request must not be larger than {most / 1e6:g} MB")
        return message

    return counted


def refusal(error: Refused) -> JSONResponse:
    """The answer to a refused request."""
    headers = error.headers | ({"WWW-Authenticate": CHALLENGE} if error.status == 401 else {})
    if error.status in (408, 413):  # the rest of the request is not read
        headers["Connection"] = "close"
    return JSONResponse({"detail": error.detail}, error.status, headers)


def to_stderr(line: str) -> None:
    """Write a line of the log."""
    print(line, file=sys.stderr, flush=True)


def state_of(scope: Scope) -> dict[str, Any]:
    """What an endpoint adds to the log of its request."""
    log: dict[str, Any] = scope.setdefault("state", {}).setdefault("log", {})
    return log
