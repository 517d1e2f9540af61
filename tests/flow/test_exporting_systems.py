"""Exports of the other systems, each in a process of its own: shape checks would be recorded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conditional_detr.factory.create import create_model
from conditional_detr.inference.detector import Detector
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.save import save_model
from exported import check_equals_model, labelled_by

SYSTEMS = {
    "deformable-detr-ss-tiny": {},
    "up-detr-tiny": {},
    "conditional-detr-tiny": {
        "reference_points": "encoder_boxes",
        "box_refinement": True,
        "cross_attention": "box_conditional",
    },
    "conditional-detr-ms-tiny": {"box_refinement": True, "cross_attention": "box_conditional"},
}
KINDS = ("onnx-fp32", "onnx-bf16", "onnx-int8", "openvino-fp32", "openvino-bf16", "openvino-int8")
SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from conditional_detr.data.index import load_split
from conditional_detr.exporting.export import Exporter
from conditional_detr.weights.discovery import load_model
folder, train, valid = Path(sys.argv[1]), *(load_split(sys.argv[2], split) for split in ("train", "valid"))
for format in ("onnx", "openvino"):
    exporter = Exporter(load_model(folder / "model"), format, valid, train.paths)
    for precision in ("fp32", "bf16", "int8"):
        exporter.export(folder / f"{format}-{precision}", precision, max_drop=1.0)
"""


@pytest.fixture(scope="module", params=SYSTEMS)
def exports(request, tmp_path_factory, digits_folder) -> Path:
    folder = tmp_path_factory.mktemp("systems")
    few = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 64, **SYSTEMS[request.param]}
    torch.manual_seed(0)
    model = create_model(request.param, 10, **few).eval()  # int8 needs a backbone with the activations of a trained one
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.0 if name.startswith("backbone.") else 0.05 * torch.randn_like(parameter))
        model.class_head.bias[:10] += 4  # some boxes with a score that counts as sure
        if model.config.reference_points == "encoder_boxes":
            model.reference_points.scorer.last.weight *= 10  # cells differ clearly, as after training
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 64})
    model.class_names, model.category_ids = [str(i) for i in range(10)], list(range(1, 11))
    save_model(model, folder / "model")
    labelled_by(folder / "model", digits_folder, folder / "data")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, folder, folder / "data"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_an_export_equals_its_model_at_any_size_and_batch(exports, format):
    exported, model = Detector(exports / f"{format}-fp32").model, load_model(exports / "model")
    for batch, height, width in ((1, 64, 96), (2, 128, 64), (3, 32, 32)):
        check_equals_model(exported, model, batch, height, width)


@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_finds_the_models_boxes(exports, kind):
    proof = json.loads((exports / kind / "proof.json").read_text())
    chooses = load_model(exports / "model").config.reference_points == "encoder_boxes"  # near-equal cells change places in bf16
    assert proof["AP"]["original"] > (0.3 if chooses else 0.5)
    boxes, precision = proof["boxes"], proof["precision"]
    assert boxes["original"] > 10
    assert boxes["rank_difference"] < {"fp32": 1e-4, "bf16": 0.2 if chooses else 0.05, "int8": 0.2}[precision]
    if precision != "int8":  # random weights have no margin between objects and background, which integers need
        assert boxes["matched"] >= {"fp32": 1, "bf16": 0.8 if chooses else 0.9}[precision] * boxes["original"]
        assert abs(proof["AP"]["drop"]) < {"fp32": 1e-9, "bf16": 0.1}[precision]
