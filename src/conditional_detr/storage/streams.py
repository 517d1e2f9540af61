"""Standard output and error that cannot end a command: any encoding, a reader who has gone, a full disk."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from errno import EINVAL, EPIPE
from typing import Any, TextIO

LOOK_ALIKES = {"→": "->", "–": "-", "—": "-", "−": "-", "━": "-", "…": "...", "×": "x", "≥": ">=", "≤": "<=", "’": "'"}
CLOSED = (EPIPE, EINVAL)  # what a pipe without a reader answers; the second one on Windows


class SteadyStream:
    """A text stream whose `write` and `flush` never fail because of the text, the reader or the disk.

    - A character that the encoding lacks is written as its ASCII look-alike (→ as ->) or as Python escapes it (猫 as
      \\u732b), so that no name is lost.
    - After an error of the operating system, all further output is dropped. If the reader has closed the pipe, as `head` does,
      nothing is said; otherwise stderr says it once.

    All other attributes are those of the stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._is_lost = stream, False

    def write(self, text: str) -> int:
        if not self._is_lost:
            try:
                self._write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if not self._is_lost:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self._stream.write(encodable(text, self._stream.encoding, self._stream.errors or "strict"))

    def _lose(self, error: OSError) -> None:
        self._is_lost = True
        with suppress(OSError, ValueError):  # for what is still buffered: Python writes it at exit
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if error.errno not in CLOSED:
            text = f"note: the output cannot be written ({error.strerror or error}). The command continues without it"
            print(text, file=steady(sys.stderr), flush=True)


def encodable(text: str, encoding: str, errors: str = "strict") -> str:
    """The text in characters that an encoding has.

    >>> encodable("crème → 猫", "cp1252")
    'crème -> \\\\u732b'
    """

    def shown(character: str) -> str:
        try:
            character.encode(encoding, errors)
        except UnicodeEncodeError:
            return LOOK_ALIKES.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")
        return character

    return "".join(map(shown, text))


def steady(stream: TextIO | None) -> Any:
    """The stream as a `SteadyStream`. None, which Python has in place of a closed stream, takes text and shows nothing."""
    if isinstance(stream, SteadyStream):
        return stream
    if stream is None:  # a descriptor that stays open takes the place of the closed one, which the next file would get
        stream = open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    return SteadyStream(stream)


@contextmanager
def steady_output() -> Iterator[None]:
    """Context manager in which `sys.stdout` and `sys.stderr` are steady."""
    with redirect_stdout(steady(sys.stdout)), redirect_stderr(steady(sys.stderr)):
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
