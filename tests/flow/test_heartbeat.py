"""A long command says what it is doing, also in a pipe and while a library computes."""

import io
import sys
import time

import pytest

from conditional_detr.cli import heartbeat
from conditional_detr.cli.heartbeat import Heartbeat
from conditional_detr.exporting.graph import quiet


def wait_for(text: str, stream: io.StringIO) -> None:
    deadline = time.monotonic() + 60
    while text not in stream.getvalue():
        assert time.monotonic() < deadline, f"{text!r} did not come"
        time.sleep(0.01)


def test_lines_come_while_a_library_computes_with_its_output_suppressed(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(heartbeat, "PAUSE_S", 0.01)
    with Heartbeat("converting") as report, quiet():
        print("a converter's own warning", file=sys.stderr)
        wait_for("s: converting\n", stream)
        report("quantising")
        wait_for("s: quantising\n", stream)
    lines = stream.getvalue().splitlines()
    assert all(line.split(": ")[1] in ("converting", "quantising") for line in lines)
    assert not [line for line in lines[lines.index(next(text for text in lines if "quant" in text)) :] if "convert" in line]


def test_no_line_comes_after_the_end_even_of_a_failure(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(heartbeat, "PAUSE_S", 0.01)
    beat = Heartbeat("converting")
    with pytest.raises(RuntimeError), beat:
        raise RuntimeError
    assert not beat.thread.is_alive()


def test_a_closed_stream_ends_the_lines_not_the_command(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(heartbeat, "PAUSE_S", 0.01)
    stream.close()
    with Heartbeat("converting") as report:
        report.thread.join(60)
        assert not report.thread.is_alive()
