"""Nothing in the forward breaks an exporter. In a process of its own: shape checks would be traced along."""

import subprocess
import sys

SCRIPT = """
import torch
from conditional_detr.factory import create_model

torch.manual_seed(0)
torch.set_num_threads(1)
parts = {"encoder_layers": 1, "decoder_layers": 2}
model = create_model("conditional-detr-tiny", num_classes=3, pretrained_backbone=False, **parts).eval()
size = torch.export.Dim.AUTO
program = torch.export.export(
    model, (torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)),
    dynamic_shapes={"images": {0: size, 2: size, 3: size}, "padding_mask": {0: size, 1: size, 2: size}},
)
images, is_padding = torch.randn(1, 3, 96, 128), torch.zeros(1, 96, 128, dtype=torch.bool)
is_padding[:, :, 96:] = True
with torch.no_grad():
    exported, eager = program.module()(images, is_padding), model(images, is_padding)
torch.testing.assert_close(exported.pred_boxes, eager.pred_boxes, atol=1e-5, rtol=1e-5)
torch.testing.assert_close(exported.pred_logits, eager.pred_logits, atol=1e-5, rtol=1e-5)
"""


def test_batch_height_and_width_stay_dynamic():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
