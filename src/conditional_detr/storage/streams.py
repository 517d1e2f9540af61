"""Make stdout and stderr robust: output errors, such as a closed pipe or a full disk, do not end a command."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from errno import EINVAL, EPIPE
from typing import Any, TextIO

LOOK_ALIKES = {"→": "->", "–": "-", "—": "-", "−": "-", "━": "-", "…": "...", "×": "x", "≥": ">=", "≤": "<=", "’": "'"}
CLOSED = (EPIPE, EINVAL)  # error codes of a closed pipe; EINVAL on Windows


class SteadyStream:
    """A text stream whose `write` and `flush` do not raise errors of the encoding or the operating system.

    - A character that the encoding does not have is written as a similar one in ASCII (→ as ->) or as a Python escape (猫 as
      \\u732b).
    - After an error of the operating system, all further output is dropped. A note is printed to stderr once, except if the
      reader closed the pipe, as `head` does.

    All other attributes are those of the wrapped stream.
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
        with suppress(OSError, ValueError):  # Python flushes the buffer at exit, so redirect the stream to the null device
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        if error.errno not in CLOSED:
            text = f"note: the output cannot be written ({error.strerror or error}). The command continues without it"
            print(text, file=steady(sys.stderr), flush=True)


def encodable(text: str, encoding: str, errors: str = "strict") -> str:
    """Replace characters that an encoding does not have.

    >>> encodable("crème → 猫", "cp1252")
    'crème -> \\\\u732b'
    """

    def replaced(character: str) -> str:
        try:
            character.encode(encoding, errors)
        except UnicodeEncodeError:
            return LOOK_ALIKES.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")
        return character

    return "".join(map(replaced, text))


def steady(stream: TextIO | None) -> Any:
    """Wrap a stream in a `SteadyStream`. None (Python's value for a closed stream) becomes a stream that discards its text."""
    if isinstance(stream, SteadyStream):
        return stream
    if stream is None:  # opened without closefd, so that no other file gets the descriptor of the closed stream
        stream = open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    return SteadyStream(stream)


@contextmanager
def steady_output() -> Iterator[None]:
    """Context manager that wraps `sys.stdout` and `sys.stderr` in `SteadyStream`."""
    with redirect_stdout(steady(sys.stdout)), redirect_stderr(steady(sys.stderr)):
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
