"""Two runs into one folder: refused while the first is alive, and only then."""

import subprocess
import sys

import pytest

from conditional_detr.errors import RunError
from conditional_detr.training.folder import LOCK, RunFolder

HOLD = """
import sys
from conditional_detr.training.folder import RunFolder
with RunFolder(sys.argv[1]).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_while_the_first_lives_and_its_kill_leaves_no_lock(tmp_path):
    folder = tmp_path / "r"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout.readline() == "held\n"
    with pytest.raises(RunError, match="another process is training into"), RunFolder(folder).held():
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
