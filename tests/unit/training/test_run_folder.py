"""Two runs into one folder: refused while the first is alive, and only then."""

import subprocess
import sys

import pytest

from conditional_detr.errors import RunError
from conditional_detr.training.artifacts.run_folder import LOCK, RunFolder

HOLD = """
import sys
from conditional_detr.training.artifacts.run_folder import RunFolder
with RunFolder(sys.argv[1]).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr("conditional_detr.training.artifacts.run_folder.PATIENCE", 0.2)


def test_what_a_killed_run_left_running_is_waited_for(tmp_path, monkeypatch):
    """A process that loads images has the lock from its parent, and notices the parent's end a little later."""
    monkeypatch.setattr("conditional_detr.training.artifacts.run_folder.PATIENCE", 20.0)
    fork = "import os, time; child = os.fork(); child or (time.sleep(1.5), os._exit(0))"
    script = HOLD.replace("    print", f"    {fork}\n    print")
    first = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "r")], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"held\n"
    first.kill()
    first.wait()
    with RunFolder(tmp_path / "r").held():
        pass
    first.communicate()


def test_a_second_run_is_refused_while_the_first_lives_and_its_kill_leaves_no_lock(tmp_path):
    folder = tmp_path / "r"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="another process is training in"), RunFolder(folder).held():
        pass
    first.kill()
    first.communicate()
    assert (folder / LOCK).exists()
    with RunFolder(folder).held():
        (folder / "config.toml").touch()
    assert [path.name for path in folder.iterdir()] == ["config.toml"]


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "r").held():
        1 / 0  # noqa: B018
    assert not (tmp_path / "r").exists()
    (tmp_path / "mine").mkdir()
    with RunFolder(tmp_path / "mine").held():
        pass
    assert (tmp_path / "mine").is_dir()


def test_a_place_that_cannot_be_a_folder_is_said(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            pytest.raises(RunError, match="is a file: a run needs a folder|cannot be written: Not a directory"),
            RunFolder(path).held(),
        ):
            pass
