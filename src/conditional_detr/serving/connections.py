"""Connections of clients: which ones are closed, and answers to what is no HTTP."""

import sys
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from conditional_detr.serving.guard import Guard
from conditional_detr.serving.limits import Refused

HEADER_SECONDS = 10.0  # time in which a connection must send the header of its next request
CONNECTIONS = 512  # beyond them, one that waits for a request is closed; if none does, the new one is answered with 503
MOST_CONNECTIONS = 2 * CONNECTIONS  # beyond them, new ones are closed at once
READ_BYTES = 16_384  # read at a time, so that the requests of all connections take turns
FRAMING_BYTES = 262_144  # header, and what chunks add to a body, until they may add no more than an eighth of it
CLOSING_SECONDS = 1.0  # time in which a client can read why its connection ends
TOO_LARGE = 431  # status of a header that is too large


class Connection(H11Protocol):
    """A connection of a client that must send its headers in time, and read its answers.

    Attributes
    ----------
    received, body_bytes : bytes since the last answer, and those that were taken as its body
    is_crowded : whether it is one too many
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.max_size = READ_BYTES
        self.idle_since = self.empty_at = time.monotonic()
        self.received = self.body_bytes = 0
        self.is_crowded = self.is_ending = self.is_lost = False
        self.app_state = {**self.app_state, "connection": self}
        self._make_room()
        self._check()

    @property
    def guard(self) -> Guard:
        """What answers all requests."""
        guard: Guard = self.config.app  # type: ignore[assignment]
        return guard

    @property
    def is_scarce(self) -> bool:
        """Whether there are so many connections that none may stay open just to be read to the end."""
        return 2 * len(self.connections) > CONNECTIONS

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_wasteful(self) -> bool:
        """Whether it brings much more than the body. Each small chunk takes a little time."""
        framing = self.received - self.body_bytes - (0 if self.cycle is None else len(self.cycle.body))
        return framing > FRAMING_BYTES + self.body_bytes // 8

    def data_received(self, data: bytes) -> None:
        if self.is_ending:
            return
        if not self.transport.get_write_buffer_size():
            self.empty_at = time.monotonic()
        self.received += len(data)
        if self.is_idle and self.received > FRAMING_BYTES:  # the rest of a body, long after its answer
            self.transport.abort()
        else:
            super().data_received(data)

    def on_response_complete(self) -> None:
        self.idle_since, self.received, self.body_bytes = time.monotonic(), 0, 0
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP. The rest of it is not read."""
        self.is_ending = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if self.cycle is not None:  # its request is not complete and never will be
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            status, detail = 400, "the request is not valid HTTP"
            if getattr(sys.exc_info()[1], "error_status_hint", 0) == TOO_LARGE:
                status, detail = TOO_LARGE, "the header is too large"
            answer = self.guard.answer_outside(Refused(status, detail, closes=True))
            reason = HTTPStatus(status).phrase.encode()
            head = h11.Response(status_code=status, headers=answer.raw_headers, reason=reason)
            is_head = self.cycle is not None and not self.is_idle and self.cycle.scope["method"] == "HEAD"
            content = () if is_head else (h11.Data(data=bytes(answer.body)),)
            for event in (head, *content, h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            with suppress(OSError):  # the client is gone
                self.transport.write_eof()
        self.loop.call_later(CLOSING_SECONDS, self.transport.close)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: a request to change the protocol is answered like any other."""

    def _make_room(self) -> None:
        others = [each for each in self.connections if each is not self and isinstance(each, Connection)]
        there = [each for each in others if not each.transport.is_closing()]
        if len(there) < CONNECTIONS:
            return
        waiting = [each for each in there if each.is_idle]
        if len(there) >= MOST_CONNECTIONS:
            self.transport.abort()
        elif waiting:
            min(waiting, key=lambda each: each.idle_since).transport.abort()
        else:
            self.is_crowded = True

    def _check(self) -> None:
        if self.is_lost:
            return
        now, unsent = time.monotonic(), self.transport.get_write_buffer_size()
        if not unsent:
            self.empty_at = now
        patience = max(self.guard.limits.seconds, HEADER_SECONDS)  # much longer than the time between two checks
        if now - self.empty_at >= patience:  # the client does not read its answer
            self.transport.abort()
        elif self.is_idle and now - self.idle_since >= HEADER_SECONDS:
            self.transport.close()
        self.loop.call_later(HEADER_SECONDS / 4, self._check)
