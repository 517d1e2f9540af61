"""Exports of the other systems in float32 and 16 bits. `tests/soak/test_exports.py` has those in 8 bits."""

from pathlib import Path

import pytest

from conditional_detr.inference.detector import Detector
from conditional_detr.weights.discovery import load_model
from exported import SYSTEMS, check_equals_model, check_proof, export_system


@pytest.fixture(scope="module", params=SYSTEMS)
def exports(request, tmp_path_factory, digits_folder) -> Path:
    folder = tmp_path_factory.mktemp("systems")
    export_system(request.param, digits_folder, folder, "fp32", "bf16")
    return folder


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_an_export_equals_its_model_at_any_size_and_batch(exports, format):
    exported, model = Detector(exports / f"{format}-fp32").model, load_model(exports / "model")
    for batch, height, width in ((1, 64, 96), (2, 128, 64), (3, 32, 32)):
        check_equals_model(exported, model, batch, height, width)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_proof_finds_the_models_boxes(exports, format, precision):
    check_proof(exports, f"{format}-{precision}")
