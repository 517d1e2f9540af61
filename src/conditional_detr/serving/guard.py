"""What every request passes before it reaches an endpoint: host, origin, token, size. Also headers of answers, and the log."""

import hmac
import json
import re
import sys
import time
import uuid
from base64 import b64decode
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conditional_detr.serving.bodies import Body
from conditional_detr.serving.limits import Access, Limits, Refused
from conditional_detr.serving.metrics import Metrics

OWN_SITE = ("none", "same-origin")  # of Sec-Fetch-Site: typed by the user, and our own page
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
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, X-Request-ID",
    "Access-Control-Max-Age": "600",
}
# How to give the token: each in a header of its own, because browsers know only the first scheme of a header.
CHALLENGES = ('Basic realm="cdetr: any name, the token as password"', 'Bearer realm="cdetr"')


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
        headers, line = Headers(scope=scope), Line(self, scope)
        connection = scope["state"].get("connection")
        body = Body(receive, self.limits.upload_bytes, connection)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                line.status = message["status"]
                self.add_headers(MutableHeaders(scope=message), line.identity)
                self.add_sharing(MutableHeaders(scope=message), headers.get("origin"))
            elif not message.get("more_body", False):
                line.end()
                # A client that waits for "100 Continue" sends no body before it is asked for.
                is_coming = body.is_asked_for or "expect" not in headers
                if not body.is_over and is_coming and not getattr(connection, "is_scarce", False):
                    await send({**message, "more_body": True})
                    await body.read_rest()
                    message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            self.check(scope, headers)
            if is_preflight(scope, headers) and headers["origin"] in self.access.origins:
                await Response(status_code=204, headers=PREFLIGHT)(scope, body.receive, send_with_headers)
                return
            await self.app(scope, body.receive, send_with_headers)
        except Refused as error:
            state_of(scope)["detail"] = error.detail
            await refusal(error)(scope, receive, send_with_headers)
        finally:
            line.write()

    def add_headers(self, own: MutableHeaders, identity: str) -> None:
        """Add the headers that every answer has."""
        own["X-Request-ID"] = identity
        for name, value in SECURITY_HEADERS.items():
            own.setdefault(name, value)
        if not self.keeps_alive():
            own["Connection"] = "close"

    def add_sharing(self, own: MutableHeaders, origin: str | None) -> None:
        """Let pages of the allowed sites read the answer."""
        if self.access.origins:
            own.add_vary_header("Origin")
        if origin in self.access.origins:
            own["Access-Control-Allow-Origin"] = str(origin)
            own["Access-Control-Expose-Headers"] = "X-Request-ID, Retry-After"
            own["Cross-Origin-Resource-Policy"] = "cross-origin"

    def answer_outside(self, error: Refused) -> JSONResponse:
        """The answer to something that is no request, and so does not come through here. It ends the connection."""
        scope: Scope = {"method": "", "path": "", "headers": []}
        line, answer = Line(self, scope), refusal(error)
        state_of(scope)["detail"] = error.detail
        self.add_headers(answer.headers, line.identity)
        line.status = error.status
        line.write()
        return answer

    def check(self, scope: Scope, headers: Headers) -> None:
        """Check that a request may pass.

        A page of another site can let a browser send requests to a server on localhost. It cannot read `Host` and `Origin` from
        them, nor change them, so they tell such requests apart.

        Raises
        ------
        Refused : it may not
        """
        if getattr(scope["state"].get("connection"), "is_crowded", False) and scope["path"] not in OPEN_PATHS:
            raise Refused(503, "the server is busy: it has too many connections", retry_after=1, closes=True)
        host = headers.get("host", "")
        is_named = host_name(host) in self.access.hosts or (self.access.addresses and is_address(host_name(host)))
        if self.access.hosts and not is_named:
            raise Refused(421, "the host of the request is not one of this server: add it with --allow-host")
        origin = headers.get("origin")
        if origin is not None and origin not in self.access.origins and origin not in (f"http://{host}", f"https://{host}"):
            raise Refused(403, "requests from pages of other sites are refused")
        if origin is None and headers.get("sec-fetch-site", "none") not in OWN_SITE and not is_link(scope, headers):
            raise Refused(403, "requests from pages of other sites are refused")
        is_open = scope["path"] in OPEN_PATHS or (is_preflight(scope, headers) and origin in self.access.origins)
        if self.access.token and not is_open and not has_token(headers, self.access.token):
            raise Refused(401, "the header 'Authorization: Bearer TOKEN' is missing, or its token is wrong")
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length[:20]) > self.limits.upload_bytes:
            raise Refused(413, f"a request must not be larger than {self.limits.upload_bytes / 1e6:g} MB", closes=True)


class Line:
    """A line of the log, and what the metrics count, about a request."""

    def __init__(self, guard: Guard, scope: Scope) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.identity = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = self.identity
        self.guard, self.scope, self.status = guard, scope, 500
        self.started = time.monotonic()
        self.seconds: float | None = None

    def end(self) -> None:
        """Note the time of the answer."""
        self.seconds = time.monotonic() - self.started

    def write(self) -> None:
        """Log and count the request."""
        if self.seconds is None:
            self.end()
        assert self.seconds is not None
        path = self.scope["path"]
        self.guard.metrics.answered(path if path in self.guard.known_paths else "other", self.status, self.seconds)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": self.identity,
            "method": self.scope["method"][:20],
            "path": path[:200],
            "status": self.status,
            "ms": round(1000 * self.seconds, 1),
        }
        self.guard.log(json.dumps(line | state_of(self.scope)))


def is_link(scope: Scope, headers: Headers) -> bool:
    """Whether a browser follows a link. A form of another site also navigates, but with POST."""
    return headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"


def is_preflight(scope: Scope, headers: Headers) -> bool:
    """Whether a browser asks if a page of another site may send a request. It sends no token with that."""
    return scope["method"] == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


def is_address(name: str) -> bool:
    """Whether a name is an IP address. A page of another site has a name."""
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


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
        except ValueError:  # no base64, or not even ASCII
            found = b""
    return hmac.compare_digest(found, token.encode())


def refusal(error: Refused) -> JSONResponse:
    """The answer to a refused request."""
    answer = JSONResponse({"detail": error.detail}, error.status, error.headers)
    if error.status == 401:
        for challenge in CHALLENGES:
            answer.headers.append("WWW-Authenticate", challenge)
    return answer


def to_stderr(line: str) -> None:
    """Write a line of the log. If it cannot be written, the server goes on."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def state_of(scope: Scope) -> dict[str, Any]:
    """What an endpoint adds to the log of its request."""
    log: dict[str, Any] = scope.setdefault("state", {}).setdefault("log", {})
    return log
