"""Memory does not grow from epoch to epoch."""

import json
import subprocess
import sys

from conditional_detr.data.digits import make_digits

SCRIPT = """
import json, re, sys
from pathlib import Path
from conditional_detr.training import run as module

resident = []
class Watched(module.RunFolder):
    def save_last(self, *inputs):
        super().save_last(*inputs)
        resident.append(int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
module.RunFolder = Watched
parts = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 32, "feedforward_dim": 48}
module.train(
    sys.argv[1], output=sys.argv[2], epochs=4, batch=4, imgsz=64, device="cpu", workers=0, threads=1,
    pretrained_backbone=False, model_overrides=parts, quiet=True,
)
print(json.dumps(resident))
"""


def test_later_epochs_take_no_more_memory_than_the_second(tmp_path):
    make_digits(tmp_path / "d", 600, 20, 64, 0)
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path / "d"), str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    resident = json.loads(done.stdout.splitlines()[-1])
    by_epoch = resident[1::2]  # each epoch saves before its evaluation and after it
    print("MB after each epoch:", [round(mb) for mb in by_epoch])
    assert max(by_epoch[2:]) < 1.02 * by_epoch[1]
