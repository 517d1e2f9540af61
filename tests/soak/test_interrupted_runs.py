"""Runs that are killed, and disks that are full. Long: `make soak`; KILLS says how many kills."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

KILLS, EPOCHS = int(os.environ.get("KILLS", "12")), 40
LONGEST = 10.0  # s that a run lives: starting takes half of it
SETTINGS = (
    "--epochs", str(EPOCHS), "--batch", "4", "--device", "cpu", "--workers", "1", "--threads", "1", "--imgsz", "64",
    "--seed", "3", "--amp", "off", "--no-pretrained-backbone", "--set", "model.hidden_dim=32", "--set", "model.num_queries=12",
)  # fmt: skip


def train(data: Path, output: Path) -> list[str]:
    return [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "conditional_detr",
        "train",
        "--data",
        str(data),
        "--output",
        str(output),
        *SETTINGS,
    ]


def lines(run: Path) -> list[str]:
    file = run / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(run / "last" / "model.safetensors") for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def undisturbed(digits_folder, tmp_path_factory) -> Path:
    """A run that was left alone."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    subprocess.run(train(digits_folder, folder), check=True, capture_output=True)
    return folder


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(digits_folder, undisturbed, tmp_path):
    """Kills at any moment, in starting, training, evaluating and saving; no line is lost, none is doubled."""
    rng, killed, folder = random.Random(0), 0, tmp_path / "r"
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*train(digits_folder, folder), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        time.sleep(rng.uniform(0.1, 1.0) * LONGEST)
        process.send_signal(signal.SIGKILL)
        error = process.communicate()[1].decode()
        assert "Traceback" not in error, error
        assert "another process" not in error, error  # what a killed one leaves bars nobody
        killed += process.returncode == -signal.SIGKILL
        assert [json.loads(line)["epoch"] for line in lines(folder)] == list(range(1, len(lines(folder)) + 1))
    subprocess.run([*train(digits_folder, folder), "--resume"], check=True, capture_output=True)
    print(f"{killed} kills survived")
    assert killed > KILLS / 2
    assert same_weights(undisturbed, folder)
    assert len(lines(folder)) == len(lines(undisturbed)) == EPOCHS


def test_a_full_disk_is_said_and_what_stood_there_is_whole(digits_folder, undisturbed, tmp_path):
    """On a file system of a few MB; where one cannot be mounted, this test cannot be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here: it needs the rights of root")
    try:
        run = disk / "r"
        subprocess.run(train(digits_folder, run), check=True, capture_output=True)
        before = load_file(run / "last" / "model.safetensors")
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(bytes(max(0, free - 2**20)))
        more = train(digits_folder, run)
        more[more.index("--epochs") + 1] = str(EPOCHS + 1)
        done = subprocess.run([*more, "--resume"], capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "cannot be written: No space left on device" in done.stderr
        assert "The previous contents are unchanged" in done.stderr
        assert "Traceback" not in done.stderr
        after = load_file(run / "last" / "model.safetensors")
        assert all(torch.equal(before[key], after[key]) for key in before)
        (disk / "filler").unlink()
        subprocess.run([*more, "--resume"], check=True, capture_output=True)
        assert len(lines(run)) == EPOCHS + 1
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
