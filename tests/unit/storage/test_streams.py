"""Output errors do not end a command: any encoding, a closed pipe, a full disk, no stdout."""

import errno
import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress

from conditional_detr.storage.streams import SteadyStream, encodable, steady, steady_output

TEXT = "best: epoch 1 → runs/猫 … – ×\n"


def written(encoding: str, text: str, errors: str = "strict") -> str:
    kept = io.BytesIO()
    stream = steady(io.TextIOWrapper(kept, encoding=encoding, errors=errors, newline=""))
    print(text, end="", file=stream, flush=True)
    return kept.getvalue().decode(encoding, errors)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", TEXT),
        ("utf-16", TEXT),
        ("cp1252", "best: epoch 1 -> runs/\\u732b … – ×\n"),
        ("latin-1", "best: epoch 1 -> runs/\\u732b ... - ×\n"),
        ("ascii", "best: epoch 1 -> runs/\\u732b ... - x\n"),
        ("cp437", "best: epoch 1 -> runs/\\u732b ... - x\n"),
        ("cp932", "best: epoch 1 → runs/猫 … - ×\n"),
        ("cp936", "best: epoch 1 → runs/猫 … – ×\n"),
    ],
)
def test_characters_that_an_encoding_does_not_have_are_replaced_or_escaped(encoding, expected):
    assert written(encoding, TEXT) == expected


@pytest.mark.parametrize(("errors", "name"), [("strict", "a\\udcff.png"), ("surrogateescape", "a\udcff.png")])
def test_a_file_name_that_is_not_utf_8_is_printed(errors, name):
    """As Python reads the file name b"a\\xff.png". A stream that writes such names as they are still does so."""
    assert written("ascii", "→ a\udcff.png", errors) == f"-> {name}"
    assert written("utf-8", "→ a\udcff.png", errors) == f"→ {name}"


def test_every_character_can_be_written_in_every_encoding():
    text = "".join(map(chr, [*range(0x20, 0x3000), *range(0xD800, 0xE000), 0x1F431, 0x10FFFF]))
    for encoding in ("ascii", "cp1252", "cp932", "utf-8", "latin-1", "koi8-r"):
        encodable(text, encoding).encode(encoding)


def test_tables_and_bars_of_rich_can_be_written():
    kept = io.BytesIO()
    stream = steady(io.TextIOWrapper(kept, encoding="ascii"))
    console = Console(file=stream, force_terminal=True, width=60)
    console.rule("→")
    with Progress(console=console) as progress:
        list(progress.track([1, 2], description="猫 …"))
    stream.flush()
    assert b"\\u732b ..." in kept.getvalue()


class Broken(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.tries = number, 0

    def write(self, text: str) -> int:
        self.tries += 1
        raise OSError(self.number, "No space left on device")


@pytest.mark.parametrize(
    ("number", "said"), [(errno.EPIPE, ""), (errno.ENOSPC, "(No space left on device). The command continues")]
)
def test_output_to_a_closed_pipe_is_dropped_and_a_full_disk_is_reported_once(monkeypatch, number, said):
    broken, told = Broken(number), io.StringIO()
    monkeypatch.setattr(sys, "stdout", broken)
    monkeypatch.setattr(sys, "stderr", told)
    with steady_output():
        for _ in range(3):
            print("a line", flush=True)
    assert sys.stdout is broken
    assert broken.tries == 1
    assert said in told.getvalue()
    assert told.getvalue().count("note:") == bool(said)


def test_where_both_streams_are_broken_nothing_is_raised(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken(errno.ENOSPC))
    monkeypatch.setattr(sys, "stderr", Broken(errno.EIO))
    with steady_output():
        print("a line")
        print("a line", file=sys.stderr)


def test_a_closed_stdout_takes_text(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with steady_output():
        print("→")
        assert not sys.stdout.isatty()


def test_a_steady_stream_is_not_wrapped_again():
    stream = steady(io.StringIO())
    assert steady(stream) is stream
    assert isinstance(stream, SteadyStream)
