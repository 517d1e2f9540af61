"""Memory does not grow from epoch to epoch, neither a run's nor that of the processes that load its images."""

import json
import subprocess
import sys

import pytest

from conditional_detr.data.digits import make_digits

SCRIPT = """
import json, re, resource, sys
from pathlib import Path
from conditional_detr.training import trainer as module

data, output, workers = sys.argv[1:]
rows = []
class Watched(module.RunFolder):
    def save_last(self, *inputs):
        super().save_last(*inputs)
        own = int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
        rows.append([own / 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024])
module.RunFolder = Watched
parts = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 32, "feedforward_dim": 48}
module.train(
    data, output=output, epochs=4, batch=8, imgsz=64, device="cpu", workers=int(workers), threads=1,
    pretrained_backbone=False, model_overrides=parts, quiet=True,
)
print(json.dumps(rows))
"""


@pytest.mark.parametrize(("images", "workers"), [(600, 0), (4000, 1)])
def test_later_epochs_take_no_more_memory_than_the_second(tmp_path, images: int, workers: int):
    make_digits(tmp_path / "d", images, 20, 64, 0)
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "d"), str(tmp_path / "r"), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])[1::2]  # each epoch saves before its evaluation and after it
    own, loading = zip(*rows, strict=True)
    print("MB after each epoch:", [round(mb) for mb in own], "the largest that loaded:", [round(mb) for mb in loading])
    assert max(own[2:]) < 1.02 * own[1]
    assert max(loading[2:]) <= 1.02 * loading[1]
