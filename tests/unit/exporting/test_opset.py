"""Graphs in the operator sets of older engines: the same results, and a refusal with the reason."""

import json

import numpy as np
import pytest

import conditional_detr as cdetr
from commands import run
from conditional_detr.errors import ConfigError, ExportError
from conditional_detr.exporting.opset import lowered
from conditional_detr.weights.save import save_model
from exported import check_oldest_operator_set

onnx = pytest.importorskip("onnx")


def test_the_oldest_operator_set_gives_the_same_results():
    """For one system. `tests/soak/test_exports.py` has the others."""
    check_oldest_operator_set("deformable-detr-ss-tiny")


def test_an_export_with_an_operator_set_is_a_source(capsys, tmp_path, small_model):
    save_model(small_model, tmp_path / "m")
    options = ("--format", "onnx", "--opset", 17, "--precision", "bf16", "--threads", 1)
    code, _, err = run(capsys, "export", tmp_path / "m", tmp_path / "e", *options)
    assert code == 0, err
    assert json.loads((tmp_path / "e" / "proof.json").read_text())["opset"] == 17
    assert onnx.load(tmp_path / "e" / "model.onnx").opset_import[0].version == 17
    assert len(cdetr.Detector(tmp_path / "e")(np.zeros((90, 120, 3), dtype=np.uint8), conf=0)[0]) > 0


@pytest.mark.parametrize(("format", "opset"), [("onnx", 15), ("onnx", 21), ("openvino", 17)])
def test_other_operator_sets_are_refused(small_model, tmp_path, format: str, opset: int):
    with pytest.raises(ConfigError, match=f"opset must be 16 to 20, with the format onnx only; it is {opset} with {format}"):
        cdetr.export(small_model, tmp_path / "e", format=format, precision="fp32", opset=opset)


def single(kind: str, inputs: list[str], opset: int, **attributes: object) -> object:
    """A model of one operator."""
    helper, kinds = onnx.helper, onnx.TensorProto
    values = [helper.make_tensor_value_info(name, kinds.FLOAT, [2, 3]) for name in ("x", "y")]
    axes = helper.make_tensor("axes", kinds.INT64, [1], [1])
    node = helper.make_node(kind, inputs, ["y"], **attributes)
    made = helper.make_graph([node], "g", values[:1], values[1:], [axes])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)])


def test_axes_of_a_reduction_become_an_attribute():
    proto = lowered(single("ReduceMax", ["x", "axes"], 18, keepdims=1), 17)
    (node,) = proto.graph.node
    assert list(node.input) == ["x"]
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {"keepdims": 1, "axes": [1]}


def test_an_operator_that_a_set_lacks_is_named():
    with pytest.raises(ExportError, match=r"cannot be written with --opset 17: .*Mish.*Use --opset 18"):
        lowered(single("Mish", ["x"], 18), 17)
    with pytest.raises(ExportError, match="ReduceMean has axes that are not constant, .* Use --opset 18"):
        lowered(single("ReduceMean", ["x", "unknown"], 18), 17)
    with pytest.raises(ExportError, match="LayerNormalization over axis 0 cannot be written with --opset 16. Use --opset 17"):
        lowered(single("LayerNormalization", ["x", "x"], 17, axis=0), 16)
