"""Two processes on one processor learn what one process learns from the joint batch."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import torch
from conditional_detr.training.run import train

torch.manual_seed(0)
parts = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 32, "feedforward_dim": 48}
run = train(
    sys.argv[1], output=sys.argv[2], epochs=2, batch=4, imgsz=64, device="cpu", workers=0, threads=1, recipe="paper",
    pretrained_backbone=False, model_overrides=parts | {"dropout": 0.0}, recipe_overrides={"crop": 0.0, "scales": (1.0, 1.0)},
)
print([row["loss"] for row in run.metrics])
"""


def started(world: int, *arguments: object) -> list[subprocess.Popen]:
    """The processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        environment = os.environ | {
            "WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, "-W", "ignore", *map(str, arguments)]
        children.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return children


def test_one_process_that_dies_ends_the_others_with_a_message(digits_folder, tmp_path):
    run = tmp_path / "r"
    settings = ("--data", digits_folder, "--output", run, "--epochs", 500, "--batch", 4, "--imgsz", 64, "--device", "cpu")
    small = ("--set", "model.hidden_dim=32", "--set", "model.num_queries=12", "--no-pretrained-backbone")
    children = started(2, "-m", "conditional_detr", "train", *settings, *small, "--workers", 0, "--threads", 1)
    try:
        deadline = time.monotonic() + 200
        while not (run / "metrics.jsonl").exists():
            assert time.monotonic() < deadline, "the run does not begin"
            assert [child.poll() for child in children] == [None, None]
            time.sleep(0.2)
        children[1].kill()
        children[1].communicate()
        _, error = children[0].communicate(timeout=120)
    finally:
        for child in children:
            child.kill()
    assert children[0].returncode == 2, error
    assert "another process of this run is gone" in error
    assert "Traceback" not in error
    assert (run / "last" / "model.safetensors").exists()


def test_two_processes_equal_one(digits_folder, tmp_path):
    results = {}
    for world in (1, 2):
        children = started(world, "-c", SCRIPT, digits_folder, tmp_path / str(world))
        try:
            said = [child.communicate(timeout=300) for child in children]
        finally:
            for child in children:
                child.kill()
        assert [child.returncode for child in children] == [0] * world, said
        results[world] = [out.strip().splitlines() for out, _ in said]
    assert len(results[2][1]) == 1  # only the first one speaks
    assert len(results[2][0]) == len(results[1][0])
    one, two = (load_file(tmp_path / str(world) / "last" / "model.safetensors") for world in (1, 2))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-4, rtol=0, msg=key)
    lines = [(tmp_path / str(world) / "metrics.jsonl").read_text().splitlines() for world in (1, 2)]
    assert len(lines[0]) == len(lines[1]) == 2
    for alone, together in zip(*lines, strict=True):
        assert json.loads(together)["loss"] == pytest.approx(json.loads(alone)["loss"], rel=1e-4)
