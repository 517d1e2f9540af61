"""Exported folders against the models that they were made from, in a process of its own: shape checks would be recorded."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from conditional_detr.data.coco import load_split
from conditional_detr.errors import CheckpointError, ConfigError, UnavailableError
from conditional_detr.inference.detector import Detector
from conditional_detr.weights.save import save_model
from conditional_detr.weights.source import load_model
from models import perturbed, small

KINDS = ("onnx-fp32", "onnx-bf16", "onnx-int8", "openvino-fp32", "openvino-bf16", "openvino-int8")

SCRIPT = """
import socket, sys
def refuse(*a, **k): raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch
torch.set_num_threads(1)
from pathlib import Path
from conditional_detr.data.coco import load_split
from conditional_detr.exporting.export import Exporter
from conditional_detr.weights.source import load_model
folder, train, valid = Path(sys.argv[1]), *(load_split(sys.argv[2], split) for split in ("train", "valid"))
for format in ("onnx", "openvino"):
    exporter = Exporter(load_model(folder / "model"), format, valid, train.paths)
    for precision in ("fp32", "bf16", "int8"):
        exporter.export(folder / f"{format}-{precision}", precision, max_drop=1.0)
exporter = Exporter(load_model(folder / "any-size"), "openvino", None)
exporter.export(folder / "any-size-openvino", "fp32", max_drop=None)
loaded = [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module is not None]
assert not loaded, loaded
"""


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def cdetr(*arguments: object) -> subprocess.CompletedProcess:
    return run("-m", "conditional_detr", *arguments)


@pytest.fixture(scope="module")
def exports(tmp_path_factory, digits_folder) -> Path:
    """A model in all formats and precisions, `model` itself, and `data`: pictures with what the model finds as truth.

    Its own AP is near 1, so whatever an export changes is a drop.
    """
    folder = tmp_path_factory.mktemp("exports")
    torch.manual_seed(1)
    model = perturbed(small(num_classes=10, num_queries=12, encoder_layers=1, decoder_layers=2, hidden_dim=32))
    with torch.no_grad():
        model.class_head.bias += 4  # some boxes with a score that counts as sure
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 64})
    model.class_names, model.category_ids = [str(i) for i in range(10)], list(range(1, 11))
    save_model(model, folder / "model")
    any_size = perturbed(small("conditional-detr-r18", encoder_layers=1, decoder_layers=2, hidden_dim=32))
    any_size.preprocessor = any_size.preprocessor.model_copy(update={"imgsz": 64})
    save_model(any_size, folder / "any-size")
    shutil.copytree(digits_folder, folder / "data")
    file = folder / "data" / "valid" / "_annotations.coco.json"
    content, index = json.loads(file.read_text()), load_split(digits_folder, "valid")
    content["annotations"] = []
    for image_id, found in zip(index.image_ids, Detector(folder / "model")(list(index.paths), conf=0), strict=True):
        for (x0, y0, x1, y1), category in zip(found.xyxy[:5].tolist(), found.data["category_id"][:5].tolist(), strict=True):
            box = {"image_id": int(image_id), "category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
            content["annotations"].append(box | {"id": len(content["annotations"]) + 1, "area": (x1 - x0) * (y1 - y0)})
    file.write_text(json.dumps(content))
    done = run("-c", SCRIPT, folder, folder / "data")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    return folder


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = ((60, 80), (80, 60), (60, 80), (50, 90), (64, 64))
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("kind", ["onnx-fp32", "openvino-fp32"])
@pytest.mark.parametrize("batch", [1, 4])
def test_an_export_finds_what_its_model_finds(exports, kind, batch):
    """On sizes and batches that it was not recorded with, some padded."""
    found, expected = (Detector(exports / name)(pictures(), conf=0, batch=batch) for name in (kind, "model"))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == 100
        np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-5)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-2)
        assert list(ours.data["class_name"]) == list(theirs.data["class_name"])
        assert list(ours.data["category_id"]) == list(theirs.data["category_id"])


def test_pictures_of_any_size_suit_an_export_even_of_a_single_cell(exports):
    """ResNets' preprocessing rounds no size; the recording itself needs more than one cell."""
    exported, model = Detector(exports / "any-size-openvino").model, load_model(exports / "any-size")
    assert model.preprocessor.size_multiple == 1
    for height, width in ((20, 20), (17, 65), (97, 33)):
        images, is_padding = torch.randn(2, 3, height, width), torch.zeros(2, height, width, dtype=torch.bool)
        is_padding[1, height // 2 :] = True
        with torch.no_grad():
            found, expected = exported(images, is_padding), model(images, is_padding)
        torch.testing.assert_close(found.pred_boxes, expected.pred_boxes, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.pred_logits, expected.pred_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_says_what_was_compared(exports, kind):
    proof = json.loads((exports / kind / "proof.json").read_text())
    assert proof["passed"]
    assert (proof["pictures"], proof["unreadable"]) == (6, 0)
    assert proof["data"] == str(exports / "data" / "valid" / "_annotations.coco.json")
    assert f"{proof['format']}-{proof['precision']}" == kind
    assert proof["AP"]["drop"] == pytest.approx(proof["AP"]["original"] - proof["AP"]["exported"])
    assert proof["AP"]["original"] > 0.5
    assert proof["latency_ms"]["original"] > 0 < proof["latency_ms"]["exported"]
    boxes = proof["boxes"]
    assert boxes["original"] > 10
    assert boxes["rank_difference"] < {"fp32": 1e-4, "bf16": 0.02, "int8": 0.2}[proof["precision"]]
    if proof["precision"] == "fp32":
        assert proof["AP"]["drop"] == 0
        assert boxes["matched"] == boxes["original"] == boxes["exported"]
        assert boxes["least_iou"] > 0.999
        assert boxes["score_difference"]["max"] < 1e-4


def test_an_onnx_file_describes_itself(exports):
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(exports / "onnx-fp32" / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, "height", "width"], "padding_mask": ["batch", "height", "width"],
        "logits": ["batch", 12, 10], "boxes": ["batch", 12, 4],
    }  # fmt: skip
    told = {entry.key: json.loads(entry.value) for entry in proto.metadata_props if not entry.key.startswith("pkg")}
    assert told["class_names"] == [str(i) for i in range(10)]
    assert told["preprocessor"] == load_model(exports / "model").preprocessor.model_dump(mode="json")


def test_an_openvino_file_describes_itself(exports):
    from conditional_detr.inference.engines import import_openvino

    graph = import_openvino().Core().read_model(exports / "openvino-int8" / "model.xml")
    assert json.loads(graph.get_rt_info(["conditional_detr", "class_names"]).astype(str)) == [str(i) for i in range(10)]
    assert [port.get_any_name() for port in (*graph.inputs, *graph.outputs)] == ["images", "padding_mask", "logits", "boxes"]


def test_integers_stay_away_from_where_a_query_looks(exports):
    """No input of a spatial projection, of Λ_q or of a head is quantised; those of the encoder are."""
    from conditional_detr.inference.engines import import_openvino

    script = (
        "import json, sys; from conditional_detr.exporting.graph import recorded; from conditional_detr.weights.source import "
        "load_model; from conditional_detr.exporting.quantisation import modules_of; "
        "print(json.dumps(modules_of(recorded(load_model(sys.argv[1])))))"
    )
    modules = json.loads(run("-c", script, exports / "model").stdout)
    quantised = set()
    for node in import_openvino().Core().read_model(exports / "openvino-int8" / "model.xml").get_ops():
        inputs = [node.input_value(i).get_node().get_type_name() for i in range(node.get_input_size())]
        if node.get_type_name() in ("MatMul", "Convolution") and "FakeQuantize" in inputs:
            operation = node.get_friendly_name().split("/")[0]
            quantised.add("convolution" if operation.startswith("convolution") else modules[operation])
    assert "convolution" in quantised
    assert any(".encoder." in module for module in quantised)
    assert any("feedforward" in module and ".decoder." in module for module in quantised)
    for part in ("spatial", "lambda_q", "reference_points", "head"):
        assert not any(part in module for module in quantised), part


def test_integers_of_an_onnx_file_are_its_weights_and_keep_away_too(exports):
    """Weights are stored in 8 bits; what stays in floating point reads values from before they are quantised."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(exports / "onnx-int8" / "model.onnx").graph
    makers = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    quantised = 0
    for node in graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
        kinds = [makers[name].op_type if name in makers else "" for name in node.input]
        if node.op_type in ("Conv", "MatMul", "Gemm") and kinds[1] == "DequantizeLinear":
            weight = makers[node.input[1]].input[0]
            assert stored.get(weight) == onnx.TensorProto.INT8, node.name
            quantised += 1
        if any(part in scopes for part in ("spatial", "lambda_q", "reference_points", "'model', 'linear")):
            assert "DequantizeLinear" not in kinds, node.name
    assert quantised > 40


@pytest.mark.parametrize("kind", ["onnx-int8", "openvino-bf16"])
def test_the_commands_take_an_export(exports, tmp_path, kind):
    picture = load_split(exports / "data", "valid").paths[0]
    done = cdetr("predict", exports / kind, picture, "--conf", 0, "--output", tmp_path / "p")
    assert (done.returncode, len(json.loads((tmp_path / "p" / "predictions.json").read_text()))) == (0, 100), done.stderr
    done = cdetr("eval", exports / kind, "--data", exports / "data", "--output", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    proof = json.loads((exports / kind / "proof.json").read_text())
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["AP"] == pytest.approx(proof["AP"]["exported"], abs=1e-6)
    told = cdetr("info", exports / kind).stdout
    assert f"export to {kind.split('-')[0]} in {kind.split('-')[1]}" in told
    assert "passed, AP" in told


def test_what_needs_weights_refuses_an_export(exports, tmp_path):
    with pytest.raises(CheckpointError, match=r"is an export \(onnx, fp32\).*Take the checkpoint that it was made from"):
        load_model(exports / "onnx-fp32")
    done = cdetr("export", exports / "onnx-fp32", tmp_path / "x")
    assert done.returncode == 2
    assert "is an export" in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_runtime_that_cannot_is_refused(exports):
    with pytest.raises(ConfigError, match="runtime torch cannot run it, runtime auto can"):
        Detector(exports / "onnx-fp32", runtime="torch")
    with pytest.raises(ConfigError, match="runtime onnx cannot run it"):
        Detector(exports / "openvino-fp32", runtime="onnx")
    with pytest.raises(ConfigError, match="cdetr export SOURCE DIR --format onnx makes one"):
        Detector(exports / "model", runtime="onnx")
    with pytest.raises(ConfigError, match="device must be auto or cpu, not cuda"):
        Detector(exports / "onnx-fp32", device="cuda")
    assert len(Detector(exports / "onnx-fp32", runtime="openvino")(pictures()[0], conf=0)[0]) == 100


@pytest.mark.parametrize("kind", ["onnx-fp32", "openvino-fp32"])
def test_a_damaged_export_is_said(exports, tmp_path, kind):
    graph = {"onnx": "model.onnx", "openvino": "model.xml"}[kind.split("-")[0]]
    shutil.copytree(exports / kind, tmp_path / "d")
    (tmp_path / "d" / graph).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be run by"):
        Detector(tmp_path / "d")
    (tmp_path / "d" / graph).unlink()
    with pytest.raises(CheckpointError, match="is missing: the export is not whole"):
        Detector(tmp_path / "d")
    description = json.loads((tmp_path / "d" / "config.json").read_text())
    (tmp_path / "d" / "config.json").write_text(json.dumps(description | {"export": {"format": "tflite"}}))
    with pytest.raises(CheckpointError, match="must say a format"):
        Detector(tmp_path / "d")


def test_a_missing_package_is_named(exports, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnavailableError, match=r"onnxruntime is not installed: pip install 'conditional-detr\[onnx\]'"):
        Detector(exports / "onnx-fp32", runtime="onnx")


def test_a_drop_is_refused_with_the_precision_that_would_do(exports, tmp_path):
    wanted = (
        "export",
        exports / "model",
        tmp_path / "x",
        "--precision",
        "int8",
        "--data",
        exports / "data",
        "--max-drop",
        1e-6,
    )
    done = cdetr(*wanted)
    assert done.returncode == 2, done.stdout
    assert "more than 1e-06. --precision " in done.stderr
    assert "would pass" in done.stderr
    assert "Traceback" not in done.stderr
    assert not json.loads((tmp_path / "x" / "proof.json").read_text())["passed"]


def test_a_folder_of_something_else_is_left_alone(exports, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = cdetr("export", exports / "model", tmp_path)
    assert (done.returncode, (tmp_path / "notes.txt").read_text()) == (2, "mine")
    assert "holds what is not an export's (notes.txt)" in done.stderr


def test_a_class_may_be_called_export(exports, tmp_path):
    model = load_model(exports / "model")
    model.class_names = ["export", *model.class_names[1:]]
    save_model(model, tmp_path / "m")
    assert load_model(tmp_path / "m").class_names[0] == "export"


def test_four_threads_may_share_a_detector(exports):
    detector = Detector(exports / "openvino-fp32")
    alone = [detector(picture, conf=0)[0].confidence for picture in pictures()]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: detector(picture, conf=0)[0].confidence, pictures() * 4))
    for i, confidence in enumerate(together):
        np.testing.assert_allclose(confidence, alone[i % len(alone)], atol=1e-5)


def test_bench_runs_sources_side_by_side(exports, tmp_path):
    huggingface = small("conditional-detr-r18", encoder_layers=1, decoder_layers=2)
    huggingface.preprocessor = huggingface.preprocessor.model_copy(update={"imgsz": 64})
    save_model(huggingface, tmp_path / "hf", format="huggingface")
    done = cdetr(
        "bench", exports / "model", exports / "onnx-fp32", tmp_path / "hf", "--rounds", 2, "--batch", 2, "--threads", 1
    )
    assert done.returncode == 0, done.stderr
    engines = [line.split(".. ")[0] for line in done.stdout.splitlines() if str(exports) in line or str(tmp_path) in line]
    for line, engine in zip(engines, ("M parameters", "run by onnxruntime", "transformers", "M parameters"), strict=True):
        assert engine in line
    assert cdetr("bench", "nothing-here").returncode == 2
    assert "takes files, not addresses" in cdetr("bench", exports / "model", "--images", "https://example.org/a.jpg").stderr
