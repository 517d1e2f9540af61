"""What the verbs load. An export runs where PyTorch is not installed; what is loaded in vain makes every command slow."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conditional_detr.exporting.export import export
from conditional_detr.weights.save import save_model
from models import perturbed, small

ROOT = Path(__file__).parents[2]
ABSENT = ("torch", "torchvision", "timm", "accelerate", "transformers", "cv2")
RUN = """
import json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
before = set(sys.modules)
from conditional_detr.cli.app import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(name for name in set(sys.modules) - before if sys.modules[name] is not None)))
"""
DETECT = """
import json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
before = set(sys.modules)
import conditional_detr
(found,) = conditional_detr.Detector(sys.argv[2])(sys.argv[3], conf=0)
assert type(found).__name__ == "Detections" and len(found) == 35
print(json.dumps(sorted(name for name in set(sys.modules) - before if sys.modules[name] is not None)))
"""


def loaded(code: str, absent: tuple[str, ...], *arguments: object) -> set[str]:
    """Modules that a command loads in a new process in which some packages are absent."""
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(absent), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, its export and an image."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = perturbed(small(encoder_layers=1, decoder_layers=1, hidden_dim=32))
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 64})
    save_model(model, folder / "checkpoint")
    export(folder / "checkpoint", folder / "export", format="openvino", precision="fp32")
    rgb = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def lean(folder) -> dict[str, set[str]]:
    """What each way to use an export loads, without PyTorch."""
    return {
        "predict": loaded(RUN, ABSENT, "predict", folder / "export", folder / "a.png", "--output", folder / "lean"),
        "info": loaded(RUN, ABSENT, "info", folder / "export"),
        "Detector": loaded(DETECT, ABSENT, folder / "export", folder / "a.png"),
    }


def test_an_export_is_run_without_pytorch_and_predict_without_supervision(lean, folder):
    assert "openvino" in lean["predict"]
    assert not {"supervision", "scipy", "matplotlib", "cv2"} & lean["predict"]
    assert "openvino" not in lean["info"]
    torch_too = loaded(RUN, (), "predict", folder / "export", folder / "a.png", "--output", folder / "both")
    assert "torch" not in torch_too  # the same path where PyTorch is installed
    rows = [(folder / name / "predictions.json").read_text() for name in ("lean", "both")]
    assert rows[0] == rows[1]


def test_the_lean_requirements_are_what_an_export_needs(lean):
    lines = (ROOT / "requirements-lean.txt").read_text().splitlines()
    wanted = {normal(line) for line in lines if not line.startswith("#")}
    homes = packages_distributions()
    used = {normal(d) for names in lean.values() for name in names for d in homes.get(name.split(".")[0], ())}
    known = set(wanted)
    while more := {n for d in known for n in needed_by(d)} - known:
        known |= more
    assert wanted <= used, "a requirement that nothing imports"
    known |= {"conditional-detr", "absl-py"}  # OpenVINO imports absl if it is there, but does not need it
    assert used <= known, "something is imported that the requirements do not install"


def test_a_checkpoint_needs_neither_the_compiler_nor_supervision(folder):
    modules = loaded(RUN, (), "predict", folder / "checkpoint", folder / "a.png", "--output", folder / "p")
    assert "torch" in modules
    assert not {"torch._dynamo", "sympy", "supervision", "scipy", "accelerate", "matplotlib", "cv2"} & modules


def test_info_of_a_model_name_loads_nothing_heavy():
    modules = loaded(RUN, (), "info", "conditional-detr-r50")
    assert not {"torch", "timm", "numpy", "PIL", "supervision"} & modules


def test_the_compiler_is_loaded_when_it_is_used():
    code = (
        "import sys, torch; disable = torch.compiler.disable; import conditional_detr.model.backbone\n"
        "from torchvision.ops.roi_align import is_compile_supported\n"
        "assert torch.compiler.disable is disable and 'torch._dynamo' not in sys.modules\n"
        "print(is_compile_supported('cpu'), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True True", done.stderr


def normal(requirement: str) -> str:
    """The name of a distribution as package indexes write it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def needed_by(distribution: str) -> set[str]:
    try:
        lines = requires(distribution) or ()
    except PackageNotFoundError:  # for another system
        return set()
    return {normal(line) for line in lines if "extra ==" not in line}
