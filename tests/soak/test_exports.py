"""Exports of the other systems in 8 bits, and in the oldest operator set."""

from pathlib import Path

import pytest

from exported import SYSTEMS, check_oldest_operator_set, check_proof, export_system


@pytest.fixture(scope="module", params=SYSTEMS)
def exports(request, tmp_path_factory, digits_folder) -> Path:
    folder = tmp_path_factory.mktemp("systems")
    export_system(request.param, digits_folder, folder, "int8")
    return folder


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_proof_finds_the_models_boxes(exports, format):
    check_proof(exports, f"{format}-int8")


@pytest.mark.parametrize("name", ["conditional-detr-tiny", "up-detr-tiny"])
def test_the_oldest_operator_set_gives_the_same_results(name):
    check_oldest_operator_set(name)
