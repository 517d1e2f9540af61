"""Peak memory of detection and of training, above the memory of imports and weights.

Each case runs in its own process.

Command: python benchmarks/memory.py        Time: about 2 minutes on 2 cores.
"""

import subprocess
import sys

HEAD = """
import resource, torch
torch.set_num_threads(2)
def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""
DETECT = """
images = torch.zeros(1, 3, 800, 1333)
before = peak_mb()
with torch.inference_mode():
    model(images)
print(peak_mb() - before)
"""
TRAIN = """
from conditional_detr import create_model, make_step
from conditional_detr.config.recipes import RECIPES
from conditional_detr.config.messages import updated
model = create_model("conditional-detr-dc5-r50", num_classes=91, pretrained_backbone=False)
step = make_step(model, recipe=updated(RECIPES["paper"], {"gradient_checkpointing": %s}, "benchmark"))
images = torch.randn(2, 3, 512, 512)
before = peak_mb()
for _ in range(2):
    step(images, None, [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * 2)
print(peak_mb() - before)
"""
THEIRS = """
from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection
config = ConditionalDetrConfig(use_pretrained_backbone=False, num_labels=91, dilation=True)
model = ConditionalDetrForObjectDetection(config).eval()
"""
OURS = """
from conditional_detr import create_model
model = create_model("conditional-detr-dc5-r50", num_classes=91, pretrained_backbone=False).eval()
"""
CASES = {
    "DC5-R50, detection on one image of 800 x 1333 px, transformers": HEAD + THEIRS + DETECT,
    "DC5-R50, detection on one image of 800 x 1333 px, ours": HEAD + OURS + DETECT,
    "DC5-R50, training on 2 images of 512 px": HEAD + TRAIN % False,
    "DC5-R50, training on 2 images of 512 px, gradient checkpointing": HEAD + TRAIN % True,
}


def main() -> None:
    """Print the peak of each case."""
    for name, code in CASES.items():
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
        print(f"{name}: {float(done.stdout.split()[-1]):.0f} MB")


if __name__ == "__main__":
    main()
