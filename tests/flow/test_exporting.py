"""Exported folders against the models that they were made from, in a process of its own: shape checks would be recorded."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from conditional_detr.data.index import load_split
from conditional_detr.errors import CheckpointError, ConfigError, UnavailableError
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.engines import import_package
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.save import save_model
from exported import check_equals_model, labelled_by
from models import perturbed, small

KINDS = ("onnx-fp32", "onnx-bf16", "onnx-int8", "openvino-fp32", "openvino-bf16", "openvino-int8")

SCRIPT = """
import socket, sys
def refuse(*a, **k): raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch
torch.set_num_threads(1)
from pathlib import Path
from conditional_detr.data.index import load_split
from conditional_detr.errors import ExportError
from conditional_detr.exporting.export import Exporter
from conditional_detr.weights.discovery import load_model
folder, train, valid = Path(sys.argv[1]), *(load_split(sys.argv[2], split) for split in ("train", "valid"))
for format in ("onnx", "openvino"):
    exporter, told = Exporter(load_model(folder / "model"), format, valid, train.paths), []
    exporter.report = told.append
    for precision in ("fp32", "bf16", "int8"):
        exporter.export(folder / f"{format}-{precision}", precision, max_drop=1.0)
    (folder / f"{format}-told.txt").write_text("\\n".join(told))
texts = []  # of OpenVINO, the last of the formats; a refusal does not depend on the format
for _ in range(2):
    try: exporter.export(folder / "refused", "int8", max_drop=1e-6)
    except ExportError as error: texts.append(str(error))
(folder / "refused.txt").write_text("\\n".join(texts))
for format in ("onnx", "openvino"):
    exporter = Exporter(load_model(folder / "any-size"), format, None)
    exporter.export(folder / f"any-size-{format}", "fp32", max_drop=None)
loaded = [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module is not None]
assert not loaded, loaded
"""


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def cdetr(*arguments: object) -> subprocess.CompletedProcess:
    return run("-m", "conditional_detr", *arguments)


COMMANDS = """
import contextlib, io, json, sys
from conditional_detr.cli import heartbeat
from conditional_detr.cli.app import main
heartbeat.PAUSE_S = 0.02
for line in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(line)
        except SystemExit as end:
            code = end.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def commands(*lines: tuple[object, ...]) -> list[Done]:
    """Several command lines in one process, whose imports take longer than the work."""
    typed = json.dumps([[str(word) for word in line] for line in lines])
    command = [sys.executable, "-W", "ignore", "-c", COMMANDS]
    done = subprocess.run(command, input=typed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def exports(tmp_path_factory, digits_folder) -> Path:
    """A model in all formats and precisions, `model` itself, and `data`: images with what the model finds as truth.

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
    parts = {"encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 32, "reference_points": "encoder"}
    parts |= {"strides": [16], "neck": "space_to_depth", "pixel_aligned_positions": True}
    any_size = perturbed(small("conditional-detr-r18", **parts))
    any_size.preprocessor = any_size.preprocessor.model_copy(update={"imgsz": 64})
    save_model(any_size, folder / "any-size")
    labelled_by(folder / "model", digits_folder, folder / "data")
    done = run("-c", SCRIPT, folder, folder / "data")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    return folder


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = ((60, 80), (80, 60), (60, 80), (50, 90), (64, 64))
    return [rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("kind", ["onnx-fp32", "openvino-fp32"])
@pytest.mark.parametrize("batch", [1, 4])
def test_an_export_finds_what_its_model_finds(exports, kind, batch):
    """On sizes and batches that it was not recorded with, some padded."""
    found, expected = (Detector(exports / name)(images(), conf=0, batch=batch) for name in (kind, "model"))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == 100
        np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-5)
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1e-2)
        assert list(ours.data["class_name"]) == list(theirs.data["class_name"])
        assert list(ours.data["category_id"]) == list(theirs.data["category_id"])


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_images_of_any_size_suit_an_export_even_of_a_single_cell(exports, format):
    """ResNets' preprocessing rounds no size; the recording itself needs more than one cell."""
    exported, model = Detector(exports / f"any-size-{format}").model, load_model(exports / "any-size")
    assert model.preprocessor.size_multiple == 1
    for height, width in ((20, 20), (17, 65), (97, 33)):
        check_equals_model(exported, model, 2, height, width)


@pytest.mark.parametrize("kind", KINDS)
def test_the_proof_says_what_was_compared(exports, kind):
    proof = json.loads((exports / kind / "proof.json").read_text())
    assert proof["passed"]
    assert (proof["images"], proof["unreadable"]) == (6, 0)
    assert proof["data"] == str(exports / "data" / "valid" / "_annotations.coco.json")
    assert f"{proof['format']}-{proof['precision']}" == kind
    assert proof["AP"]["drop"] == pytest.approx(proof["AP"]["original"] - proof["AP"]["exported"])
    assert proof["AP"]["original"] > 0.5
    assert proof["latency_ms"]["original"] > 0 < proof["latency_ms"]["exported"]
    boxes = proof["boxes"]
    assert boxes["original"] > 10
    assert boxes["rank_difference"] < {"fp32": 1e-4, "bf16": 0.02, "int8": 0.2}[proof["precision"]]
    assert boxes["matched"] >= {"fp32": 1, "bf16": 0.9, "int8": 0.75}[proof["precision"]] * boxes["original"]
    if proof["precision"] == "fp32":
        assert abs(proof["AP"]["drop"]) < 1e-9
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
        "import json, sys; from conditional_detr.exporting.graph import traced; "
        "from conditional_detr.weights.discovery import load_model; "
        "from conditional_detr.exporting.quantisation import modules_of; "
        "print(json.dumps(modules_of(traced(load_model(sys.argv[1])))))"
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


@pytest.mark.parametrize("format", ["openvino", "onnx"])
def test_every_step_is_told_in_its_order(exports, format):
    """Each image once, so calibration runs in one pass."""
    told = (exports / f"{format}-told.txt").read_text().splitlines()
    assert told[0] == "proof: detections of the model, image 1 of 6"
    assert told[6:8] == ["tracing the model", f"converting the model to {format}"]
    quantised = told[told.index("quantising: preparing the graph") + 1 :]
    calibrating = [text for text in quantised if "calibration image" in text]
    assert calibrating == quantised[: len(calibrating)] == [f"quantising: calibration image {i} of 12" for i in range(1, 13)]
    proof = [text for text in quantised if text.startswith("proof: ")]
    assert proof[:2] == ["proof: loading the export", "proof: detections of the export, image 1 of 6"]
    assert proof[-8:] == ["proof: computing the AP", *(f"proof: latency, round {i} of 7" for i in range(1, 8))]


@pytest.mark.parametrize("kind", ["onnx-int8", "openvino-bf16"])
def test_the_commands_take_an_export(exports, tmp_path, kind):
    image = load_split(exports / "data", "valid").paths[0]
    done = cdetr("predict", exports / kind, image, "--conf", 0, "--output", tmp_path / "p")
    assert (done.returncode, len(json.loads((tmp_path / "p" / "predictions.json").read_text()))) == (0, 100), done.stderr
    done = cdetr("eval", exports / kind, "--data", exports / "data", "--output", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    proof = json.loads((exports / kind / "proof.json").read_text())
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["AP"] == pytest.approx(proof["AP"]["exported"], abs=1e-6)
    told = cdetr("info", exports / kind).stdout
    assert f"export to {kind.split('-')[0]} in {kind.split('-')[1]}" in told
    assert "passed, AP" in told


def test_what_needs_weights_refuses_an_export(exports, tmp_path):
    with pytest.raises(CheckpointError, match=r"is an export \(onnx, fp32\).*Use the checkpoint that it was made from"):
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
    assert len(Detector(exports / "onnx-fp32", runtime="openvino")(images()[0], conf=0)[0]) == 100
    with pytest.raises(UnavailableError, match="is installed but cannot be used"):
        import_package("json.nothing")


@pytest.mark.parametrize("kind", ["onnx-fp32", "openvino-fp32"])
def test_a_damaged_export_is_said(exports, tmp_path, kind):
    graph = {"onnx": "model.onnx", "openvino": "model.xml"}[kind.split("-")[0]]
    shutil.copytree(exports / kind, tmp_path / "d")
    (tmp_path / "d" / graph).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be run by"):
        Detector(tmp_path / "d")
    for name in ("model.bin", graph):
        (tmp_path / "d" / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="is missing: the export is incomplete"):
        Detector(tmp_path / "d")
    description = json.loads((tmp_path / "d" / "config.json").read_text())
    (tmp_path / "d" / "config.json").write_text(json.dumps(description | {"export": {"format": "tflite"}}))
    with pytest.raises(CheckpointError, match="must contain a format"):
        Detector(tmp_path / "d")


def test_a_missing_package_is_named(exports, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnavailableError, match=r"onnxruntime is not installed: pip install 'conditional-detr\[onnx\]'"):
        Detector(exports / "onnx-fp32", runtime="onnx")


def test_a_drop_is_refused_with_the_precision_that_would_do(exports):
    folder = exports / "refused"
    first, again = (exports / "refused.txt").read_text().splitlines()
    assert "int8: AP falls from" in first
    assert "more than 1e-06. --precision " in first
    assert "would pass. The failed export is kept for inspection" in first
    assert "The earlier export is unchanged" in again
    assert json.loads((folder / "proof.json").read_text())["passed"] is False


def test_who_uses_an_export_that_did_not_pass_is_told(exports, tmp_path):
    folder = exports / "refused"
    image = load_split(exports / "data", "valid").paths[0]
    info, predicted = commands(("info", folder), ("predict", folder, image, "--output", tmp_path / "p"))
    assert "NOT passed" in info.stdout
    assert (predicted.returncode, "did not pass its proof" in predicted.stderr) == (0, True)


def test_a_proof_without_an_ap_is_no_pass(exports, tmp_path, monkeypatch):
    """On synthetic images; and on images without objects, here into the folder that one stands in."""
    proof = json.loads((exports / "any-size-openvino" / "proof.json").read_text())
    assert proof["passed"] is None
    assert proof["boxes"]["rank_difference"] < 1e-4
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    shutil.copytree(exports / "data", tmp_path / "data")
    file = tmp_path / "data" / "valid" / "_annotations.coco.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    settings = ("--precision", "fp32", "--data", tmp_path / "data")
    done, info = commands(("export", exports / "model", ".", *settings), ("info", tmp_path / "here"))
    assert (done.returncode, "there are no objects" in done.stdout) == (0, True), done.stderr
    assert json.loads((tmp_path / "here" / "proof.json").read_text())["passed"] is None
    assert "no AP was compared" in info.stdout


def test_a_proof_is_of_the_images_that_could_be_read(exports, tmp_path):
    """Objects of the others would be missed by both models and hide a drop."""
    data, gone = tmp_path / "data", tmp_path / "gone"
    shutil.copytree(exports / "data", data)
    shutil.rmtree(data / "train")
    images = [Path(path) for path in load_split(data, "valid").paths]
    images[2].unlink()
    for path in images[3:]:
        path.write_text("no image")
    shutil.copytree(data, gone)
    for path in images[:2]:
        (gone / "valid" / path.name).write_text("no image")
    export = ("export", exports / "model", tmp_path / "x", "--precision", "int8", "--max-drop", 1)
    done, none = commands((*export, "--data", data), (*export, "--data", gone))
    assert done.returncode == 0, done.stderr
    assert "calibrated on the images of the proof" in done.stderr
    for step in ("loading", "tracing the model", "converting the model to openvino", "quantising"):
        assert f" s: {step}" in done.stderr
    proof = json.loads((tmp_path / "x" / "proof.json").read_text())
    assert (proof["images"], proof["unreadable"]) == (2, len(images) - 2)
    assert proof["calibrated_on"] == "the split valid, which the proof is of too"
    assert proof["AP"]["original"] > 0.25  # with the objects of the other four it would be a third of what it is
    assert (none.returncode, "none of the 5 images of the proof can be read" in none.stderr) == (2, True)


def test_an_export_that_cannot_be_is_refused_before_the_work(exports, tmp_path):
    shutil.copytree(exports / "data", tmp_path / "data")
    file = tmp_path / "data" / "valid" / "_annotations.coco.json"
    strange = {"categories": [{"id": 99, "name": "neither name nor id"}]}
    file.write_text(json.dumps(json.loads(file.read_text()) | strange))
    for name in ("notes.txt", "model.onnx"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
    (tmp_path / "file").touch()
    expected = {
        ("x", "--data", tmp_path / "data"): "no class of the model is a category",
        ("x", "--precision", "int4"): "there is no precision 'int4'. Did you mean int8?",
        ("x", "--format", "tflite"): "there is no format 'tflite'",
        ("x", "--max-drop", 2): "max_drop must be in [0, 1], not 2",
        ("file",): "is a file: the output must be a folder",
        ("notes.txt",): "is not an export (found: notes.txt): give a new or empty folder",
        ("model.onnx",): "is not an export (found: model.onnx)",
    }
    done = commands(*(("export", exports / "model", tmp_path / name, *options) for name, *options in expected))
    for text, each in zip(expected.values(), done, strict=True):
        assert (each.returncode, text in each.stderr) == (2, True), (text, each.stderr)
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "model.onnx" / "model.onnx").read_text() == "mine"


def test_places_and_boxes_stay_in_32_bits(exports):
    """The marks survive being written and read: on the heads, and on all that leads from the grid to its sines."""
    from conditional_detr.inference.engines import import_openvino

    core = import_openvino().Core()

    def marked(kind: str) -> list[str]:
        nodes = [node for node in core.read_model(exports / kind / "model.xml").get_ops() if node.get_type_name() != "Constant"]
        return [
            n.get_friendly_name() for n in nodes if any(key.startswith("DisablePrec") for key in dict(n.get_rt_info().items()))
        ]

    assert not [name for name in marked("openvino-fp32") if name.startswith(("linear", "sin", "cos"))]
    for kind in ("openvino-bf16", "openvino-int8"):
        names = marked(kind)
        heads = [name for name in names if name.startswith("linear")]
        assert len(heads) == 4, heads  # a class head of one map, a box head of three
        assert {"sin", "cos", "cumsum", "cumsum_1"} <= {name.split("/")[0] for name in names}


def test_what_chooses_places_by_the_image_may_compute_in_16_bits(exports):
    """The places stay in 32 bits, the encoder that they were chosen by does not."""
    script = (
        "import json, sys; from conditional_detr.exporting import graph, mixed_precision, rounding; "
        "from conditional_detr.weights.discovery import load_model; model = load_model(sys.argv[1]); "
        "program = graph.traced(model); modules = graph.modules_of(program); "
        "in_float32 = rounding.modules_in_float32(model); "
        "names = mixed_precision.nodes_in_float32(graph.to_openvino(model, program), modules, in_float32); "
        "print(json.dumps([[name, modules.get(name.split('/')[0], '')] for name in sorted(names)]))"
    )
    marked = json.loads(run("-c", script, exports / "any-size").stdout)
    products = [module for name, module in marked if name.startswith("linear")]
    assert len(products) == 7, marked  # the heads' four, and three of the reference points
    assert not any(".encoder." in module or ".decoder." in module for module in products), marked


def test_a_class_may_be_called_export(exports, tmp_path):
    model = load_model(exports / "model")
    model.class_names = ["export", *model.class_names[1:]]
    save_model(model, tmp_path / "m")
    assert load_model(tmp_path / "m").class_names[0] == "export"


def test_four_threads_may_share_a_detector(exports):
    detector = Detector(exports / "openvino-fp32")
    alone = [detector(image, conf=0)[0].confidence for image in images()]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: detector(image, conf=0)[0].confidence, images() * 4))
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
    assert done.stderr == ""
    for line, engine in zip(engines[:4], ("M parameters", "run by onnxruntime", "transformers", "M parameters"), strict=True):
        assert engine in line
    shutil.copytree(tmp_path / "hf", tmp_path / "odd")
    (tmp_path / "odd" / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}')
    (tmp_path / "x.jpg").write_text("no image")
    bench = ("bench", exports / "model")
    unknown, url, rounds, nothing, bad = commands(
        ("bench", "nothing-here"),
        (*bench, "--images", "https://example.org/a.jpg"),
        (*bench, "--rounds", 0),
        ("bench",),
        (*bench, "--images", tmp_path / "x.jpg"),
    )
    assert unknown.returncode == 2
    assert "takes files, not URLs" in url.stderr
    assert "rounds and batch must be at least 1" in rounds.stderr
    assert "bench needs SOURCES" in nothing.stderr
    assert "bench needs images that can be read" in bad.stderr
    done = cdetr("bench", tmp_path / "odd", "--rounds", 1, "--batch", 1, "--threads", 1)
    assert (done.returncode, "transformers cannot run" in done.stderr) == (0, True), done.stderr


COPIES = """
import copy, multiprocessing, pickle, sys, threading
import numpy as np
import torch
from conditional_detr import Detector

def found(detector):
    return [[each.xyxy, each.confidence, each.class_id] for each in detector(IMAGES, conf=0.1)]

def same(ours):
    return all(np.array_equal(a, b) for one, other in zip(ours, EXPECTED, strict=True) for a, b in zip(one, other, strict=True))

if __name__ in ("__main__", "__mp_main__"):
    torch.set_num_threads(2)
    IMAGES = list(np.random.default_rng(0).integers(0, 255, (3, 60, 80, 3), dtype=np.uint8))

if __name__ == "__main__":
    detector = Detector(sys.argv[1])
    EXPECTED = found(detector)
    assert sum(len(each[0]) for each in EXPECTED)
    assert same(found(pickle.loads(pickle.dumps(detector))))
    assert same(found(copy.deepcopy(detector)))
    results = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: found(detector)})) for i in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert len(results) == 6 and all(map(same, results.values()))
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            for one, other in zip(pool.apply_async(found, (detector,)).get(60), EXPECTED, strict=True):
                for a, b in zip(one, other, strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3, err_msg=method)
    assert same(found(detector))
    print("done")
"""


@pytest.mark.parametrize("name", ["model", "openvino-fp32", "onnx-fp32"])
def test_a_detector_survives_pickling_copies_threads_and_processes(exports, tmp_path, name: str):
    """After a fork the threads of its parent are gone, and a detector that waits for them hangs."""
    (tmp_path / "script.py").write_text(COPIES)
    command = [sys.executable, "-W", "ignore", tmp_path / "script.py", exports / name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-3000:]
