"""The body of a request: its limits, and its end."""

import asyncio
from contextlib import suppress
from typing import Protocol

from starlette.types import Message, Receive

from conditional_detr.serving.limits import Refused

REST_SECONDS = 5.0  # time in which the rest of a body is read after the answer


class Source(Protocol):
    """The connection that a body comes from.

    Attributes
    ----------
    body_bytes : bytes of the body that have been taken
    is_wasteful : whether much more comes through the connection than the body
    """

    body_bytes: int

    @property
    def is_wasteful(self) -> bool: ...


class Body:
    """The body of a request, whatever its header says about its length.

    Parameters
    ----------
    receive : what the server gives to an application
    most : largest number of bytes
    source : the connection; None = unknown
    """

    def __init__(self, receive: Receive, most: int, source: Source | None = None) -> None:
        self._receive, self._most, self._source = receive, most, source
        self._seen = 0
        self.is_over = self.is_asked_for = False

    async def receive(self) -> Message:
        """Like `receive` of the server.

        Raises
        ------
        Refused : the body is too large, or comes in very many pieces
        """
        message = await self._next()
        if self._seen > self._most:
            raise Refused(413, f"a request must not be larger than {self._most / 1e6:g} MB", closes=True)
        if self._is_wasteful:
            raise Refused(413, "the body comes in too many small chunks", closes=True)
        return message

    async def read_rest(self) -> None:
        """Read and drop what the client still sends. If a connection is closed before, the client may not see the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_SECONDS):
                while not self.is_over and not self._is_wasteful:
                    await self._next()

    @property
    def _is_wasteful(self) -> bool:
        return not self.is_over and self._source is not None and self._source.is_wasteful

    async def _next(self) -> Message:
        self.is_asked_for = True
        message = await self._receive()
        size = len(message.get("body", b""))
        self._seen += size
        if self._source is not None:
            self._source.body_bytes += size
        self.is_over = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message
