"""Two processes on one processor learn what one process learns from the joint batch."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conditional_detr.data.loader import EpochBatches
from conditional_detr.training.execution.distributed import VARIABLES, launched

SCRIPT = """
import sys
from collections import Counter
from functools import partial
from conditional_detr.evaluation.coco import coco_metrics
from conditional_detr.training.execution.shared_evaluation import evaluate_together
from conditional_detr.training.prepare import prepared_run
from conditional_detr.training.setup.resolve import requested
from conditional_detr.training.trainer import Trainer

def printed_metrics(truth, results):
    print("evaluated", sorted(Counter(result["image_id"] for result in results).items()))
    return coco_metrics(truth, results)
parts = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 32, "feedforward_dim": 48}
options = dict(
    data=sys.argv[1], output=sys.argv[2], epochs=2, batch=4, imgsz=64, device="cpu", workers=0, threads=1, amp="off",
    recipe="paper", pretrained_backbone=False, model_overrides=parts | {"dropout": 0.0},
    recipe_overrides={"crop": 0.0, "scales": (1.0, 1.0)},
)
with prepared_run(requested(options)) as prepared:
    Trainer(prepared, evaluate=partial(evaluate_together, compute_metrics=printed_metrics)).fit()
"""
SMALL = (
    "--batch", 4, "--imgsz", 64, "--device", "cpu", "--workers", 0, "--threads", 1, "--no-pretrained-backbone",
    "--set", "model.hidden_dim=32", "--set", "model.num_queries=12",
)  # fmt: skip
LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--nproc-per-node", 2, "--master-port"),
    "accelerate": (
        "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no",
        "--dynamo_backend", "no", "--main_process_port",
    ),
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "ignore", *map(str, arguments)]


def started(world: int, *arguments: object) -> list[subprocess.Popen]:
    """The processes of a run."""
    port, children = free_port(), []
    for rank in range(world):
        environment = os.environ | {
            "WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        children.append(subprocess.Popen(command(*arguments), env=environment, text=True, **pipes))
    return children


def of_rank(rank: int, world: int) -> list[list[int]]:
    """The images of each batch of two epochs of twelve images, by place, that one of the processes sees."""
    batches, seen = EpochBatches(12, 4, 42, rank, world), []
    for batches.epoch in range(2):
        seen += [[i for i, _ in keys] for keys in batches]
    return seen


@pytest.fixture(scope="module")
def uneven(digits_folder, tmp_path_factory) -> Path:
    """Most of the images without objects, one cut off, and a number of images to validate on that two do not divide."""
    folder = tmp_path_factory.mktemp("uneven") / "d"
    shutil.copytree(digits_folder, folder)
    file = folder / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    with_objects = {image["id"] for image in content["images"][:5]}
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in with_objects]
    file.write_text(json.dumps(content))
    bad = folder / "train" / content["images"][met_by_the_second_alone()]["file_name"]
    bad.write_bytes(bad.read_bytes()[:200])
    file = folder / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"images": content["images"][:5]}))
    return folder


def met_by_the_second_alone() -> int:
    """An image without objects that only the second of two processes sees."""
    first, second = ({i for batch in of_rank(rank, 2) for i in batch} for rank in (0, 1))
    return min(second - first - set(range(5)))


def test_one_process_that_dies_ends_the_others_with_a_message(digits_folder, tmp_path):
    run = tmp_path / "r"
    children = started(2, "-m", "conditional_detr", "train", "--data", digits_folder, "--output", run, "--epochs", 500, *SMALL)
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
    assert "another process of this run has stopped" in error
    assert "Traceback" not in error
    assert (run / "last" / "model.safetensors").exists()


def test_two_processes_equal_one(uneven, tmp_path):
    """The same losses and weights, though a process sees no objects in some batches and an image that cannot be read."""
    objects_seen = [any(i < 5 for i in batch) for batch in of_rank(0, 2) + of_rank(1, 2)]
    assert 0 < sum(objects_seen) < len(objects_seen)
    results = {}
    for world in (1, 2):
        children = started(world, "-c", SCRIPT, uneven, tmp_path / str(world))
        try:
            said = [child.communicate(timeout=300) for child in children]
        finally:
            for child in children:
                child.kill()
        assert [child.returncode for child in children] == [0] * world, said
        results[world] = [out.strip().splitlines() for out, _ in said]
    evaluated = {world: [line for line in results[world][0] if line.startswith("evaluated")] for world in (1, 2)}
    assert evaluated[1] == evaluated[2] == results[2][1]  # each image once; the second process says nothing else
    assert len(evaluated[1]) == 2
    for world in (1, 2):
        (skipped,) = [line for line in results[world][0] if line.startswith("left out")]
        assert f"{met_by_the_second_alone() + 1:05d}.png" in skipped
    one, two = (load_file(tmp_path / str(world) / "last" / "model.safetensors") for world in (1, 2))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-4, rtol=0, msg=key)
    lines = [(tmp_path / str(world) / "metrics.jsonl").read_text().splitlines() for world in (1, 2)]
    assert len(lines[0]) == len(lines[1]) == 2
    for alone, together in zip(*lines, strict=True):
        assert json.loads(together)["loss"] == pytest.approx(json.loads(alone)["loss"], rel=1e-4)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_launchers_of_the_field_start_it(digits_folder, tmp_path, launcher):
    run = tmp_path / "r"
    settings = ("-m", "conditional_detr", "train", "--data", digits_folder, "--output", run, "--epochs", 1, *SMALL)
    done = subprocess.run(
        command("-m", *LAUNCHERS[launcher], free_port(), *settings), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1  # two processes, of which one speaks
    assert {"best", "last", "metrics.jsonl", "report.html"} <= {path.name for path in run.iterdir()}


def test_each_launcher_says_who_a_process_is(monkeypatch):
    for name in (name for names in VARIABLES.values() for name in names):
        monkeypatch.delenv(name, raising=False)
    assert [launched(what) for what in VARIABLES] == [None] * 3
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("PMI_SIZE", "8")
    assert [launched(what) for what in VARIABLES] == [3, 8, None]


PRETRAINING = """
import sys
from conditional_detr.pretraining.pretrain import pretrain
parts = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 32, "feedforward_dim": 48}
pretrain(
    sys.argv[1], "up-detr-tiny", sys.argv[2], patches=5, epochs=2, batch=4, imgsz=64, device="cpu", workers=0, threads=1,
    amp="off", pretrained_backbone=False, model_overrides=parts | {"dropout": 0.0},
)
"""


def test_two_processes_pretrain_as_one(digits_folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for file in sorted((digits_folder / "train").glob("*.png"))[:10]:
        shutil.copy(file, photos)
    said = {}
    for world in (1, 2):
        children = started(world, "-c", PRETRAINING, photos, tmp_path / str(world))
        try:
            said[world] = [child.communicate(timeout=300) for child in children]
        finally:
            for child in children:
                child.kill()
        assert [child.returncode for child in children] == [0] * world, said
    assert "epoch 1/2" in said[2][0][0]
    assert said[2][1][0] == ""  # the second process says nothing
    one, two = (load_file(tmp_path / str(world) / "last" / "model.safetensors") for world in (1, 2))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-4, rtol=0, msg=key)
    lines = [(tmp_path / str(world) / "metrics.jsonl").read_text().splitlines() for world in (1, 2)]
    for alone, together in zip(*lines, strict=True):
        alone, together = json.loads(alone), json.loads(together)
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert together["AP"] == pytest.approx(alone["AP"], abs=1e-6)
