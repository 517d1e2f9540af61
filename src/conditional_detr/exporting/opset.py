"""Convert an ONNX graph to an older operator set (opset), for engines that do not support newer ones."""

from collections.abc import Callable
from typing import Any

from conditional_detr.errors import ExportError
from conditional_detr.inference.engines import import_package

DEFAULT, OPSETS = 20, range(16, 21)
LOWEST_WRITTEN = 18  # oldest operator set that PyTorch writes


def lowered(proto: Any, opset: int) -> Any:
    """Convert an `onnx.ModelProto` to `opset` in place, with the oldest file version (IR) that allows it.

    Raises
    ------
    ExportError : the graph has an operator that is not in the operator set
    """
    onnx = import_package("onnx")
    present = proto.opset_import[0].version
    for version in range(present, opset, -1):
        rules, nodes = LOWERED.get(version, {}), []
        for node in proto.graph.node:
            nodes += rules[node.op_type](node, proto.graph) if node.op_type in rules else [node]
        nodes = [_copied(node) for node in nodes]
        del proto.graph.node[:]
        proto.graph.node.extend(nodes)
    proto.opset_import[0].version = opset
    proto.ir_version = onnx.helper.find_min_ir_version_for(list(proto.opset_import))
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"the graph cannot be written with --opset {opset}: {reason}. Use --opset {present}") from error
    return proto


def _copied(node: Any) -> Any:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def _grid_sample(node: Any, graph: Any) -> list[Any]:
    """Name the mode "bilinear", as before opset 20, which renamed it "linear"."""
    onnx = import_package("onnx")
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if values.get("mode", b"linear") == b"linear":
        node = _without(node, "mode")
        node.attribute.append(onnx.helper.make_attribute("mode", "bilinear"))
    return [node]


def _split(node: Any, graph: Any) -> list[Any]:
    """Remove the attribute `num_outputs`, which opset 18 added. Before, the number of outputs gave the number of parts."""
    return [_without(node, "num_outputs")]


def _resize(node: Any, graph: Any) -> list[Any]:
    """Remove the attributes that opset 18 added. The graphs of this library do not use them."""
    return [_without(node, "antialias", "keep_aspect_ratio_policy")]


def _reduction(node: Any, graph: Any) -> list[Any]:
    """Change the axes from an input, as in opset 18, to an attribute."""
    onnx = import_package("onnx")
    node = _without(node, "noop_with_empty_axes")
    if len(node.input) == 2:
        values = {tensor.name: tensor for tensor in graph.initializer}
        if node.input[1] not in values:
            raise ExportError(
                f"{node.op_type} has axes that are not constant, which operator sets below 18 do not support. Use --opset 18"
            )
        axes = onnx.numpy_helper.to_array(values[node.input[1]]).reshape(-1).tolist()
        node.attribute.append(onnx.helper.make_attribute("axes", axes))
        del node.input[1:]
    return [node]


def _layer_norm(node: Any, graph: Any) -> list[Any]:
    """Replace LayerNormalization, which opset 17 added, by (x − mean) / √(variance + ε) · scale + bias."""
    onnx = import_package("onnx")
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    axis, name = values.get("axis", -1), node.name or node.output[0]
    if axis != -1:
        raise ExportError(f"LayerNormalization over axis {axis} cannot be written with --opset 16. Use --opset 17")
    x, scale, *bias = node.input
    epsilon = f"{name}.epsilon"
    graph.initializer.append(onnx.helper.make_tensor(epsilon, onnx.TensorProto.FLOAT, [], [values.get("epsilon", 1e-5)]))
    made: list[Any] = []

    def add(kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        output = output or f"{name}.{len(made)}"
        step = onnx.helper.make_node(kind, inputs, [output], name=f"{name}.{kind}.{len(made)}", **attributes)
        step.metadata_props.extend(node.metadata_props)
        made.append(step)
        return output

    centred = add("Sub", x, add("ReduceMean", x, axes=[axis], keepdims=1))
    variance = add("ReduceMean", add("Mul", centred, centred), axes=[axis], keepdims=1)
    normal = add("Div", centred, add("Sqrt", add("Add", variance, epsilon)))
    scaled = add("Mul", normal, scale, output=None if bias else node.output[0])
    if bias:
        add("Add", scaled, bias[0], output=node.output[0])
    return made


def _without(node: Any, *names: str) -> Any:
    kept = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
    return node


REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
# Operator set → operator → function that returns the replacing nodes for the previous operator set.
LOWERED: dict[int, dict[str, Callable[[Any, Any], list[Any]]]] = {
    20: {"GridSample": _grid_sample},
    18: {"Split": _split, "Resize": _resize} | dict.fromkeys(REDUCTIONS, _reduction),
    17: {"LayerNormalization": _layer_norm},
}
