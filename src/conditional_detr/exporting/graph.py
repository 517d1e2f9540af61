"""Trace a model with PyTorch, and convert it to an ONNX or OpenVINO graph for images of any size."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from conditional_detr.exporting.opset import DEFAULT, LOWEST_WRITTEN, lowered
from conditional_detr.factory.build import DetectionModel
from conditional_detr.inference.engines import INPUTS, OUTPUTS, import_openvino, import_package
from conditional_detr.weights.description import describe

ANY_SIZE = 2**40  # size limit of constant folding: none in practice
MANY = 1024  # tensors with fewer weights stay in float32
EXAMPLE_CELLS = 3  # the example image has 3 × 4 cells of max(size_multiple, 32) px


class DetectionGraph(nn.Module):
    """Module to export: images [B, 3, H, W], padding mask [B, H, W] → logits [B, Q, K], boxes [B, Q, 4] of the last layer."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(images, padding_mask, aux=False)
        return output.pred_logits, output.pred_boxes


def traced(model: DetectionModel) -> ExportedProgram:
    """Trace a model in eval mode on the CPU.

    The graph accepts any batch size, and any height and width that the preprocessing produces (multiples of its
    `size_multiple`).
    """
    step = model.preprocessor.size_multiple
    unit = max(step, 32, model.config.strides[-1])
    height, width = EXAMPLE_CELLS * unit, (EXAMPLE_CELLS + 1) * unit
    example = torch.zeros(2, 3, height, width), torch.zeros(2, height, width, dtype=torch.bool)
    batch = Dim("batch")
    least = unit + 1  # tracing would specialise on a side of one cell
    steps = -(-least // step)
    sides = [step * Dim(f"{name}_in_steps", min=steps) if step > 1 else Dim(name, min=least) for name in ("height", "width")]
    shapes = {0: batch, 2: sides[0], 3: sides[1]}, {0: batch, 1: sides[0], 2: sides[1]}
    with quiet(), torch.no_grad():
        return torch.export.export(DetectionGraph(model), example, dynamic_shapes=shapes, strict=False)


def modules_of(program: ExportedProgram) -> dict[str, str]:
    """Map each node of a traced graph to the path of the module that it comes from."""
    stacks = {node.name: node.meta.get("nn_module_stack") for node in program.graph.nodes}
    return {name: list(stack.values())[-1][0] for name, stack in stacks.items() if stack}


def metadata(model: DetectionModel) -> dict[str, str]:
    """Return the metadata for the graph file: model configuration, classes and preprocessing, each as JSON."""
    return {key: json.dumps(value, ensure_ascii=False) for key, value in describe(model).items()}


def to_onnx(model: DetectionModel, program: ExportedProgram, opset: int | None = None) -> Any:
    """Convert to an `onnx.ModelProto`, with the dynamo exporter. `opset`: operator set, see `opset.OPSETS`."""
    import_package("onnx")
    optimizer = import_package("onnxscript.optimizer")
    with quiet():
        written = torch.onnx.export(
            program, (), dynamo=True, input_names=INPUTS, output_names=OUTPUTS, verbose=False,
            opset_version=max(opset or DEFAULT, LOWEST_WRITTEN),
        )  # fmt: skip
        assert written is not None
        # Fold all constants. By default the exporter skips tensors with more than 8192 elements.
        optimizer.optimize_ir(written.model, input_size_limit=ANY_SIZE, output_size_limit=ANY_SIZE)
    proto = written.model_proto
    names = dict(zip(_axes(proto), ("batch", "height", "width"), strict=True))
    for value in (*proto.graph.input, *proto.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]
    for key, text in metadata(model).items():
        proto.metadata_props.add(key=key, value=text)
    return proto if opset is None else lowered(proto, opset)


def to_openvino(model: DetectionModel, program: ExportedProgram) -> Any:
    """Convert to an `openvino.Model`."""
    openvino = import_openvino()
    with quiet():
        converted = openvino.convert_model(program)
    for port, name in zip((*converted.inputs, *converted.outputs), (*INPUTS, *OUTPUTS), strict=True):
        port.get_tensor().set_names({name})
    converted.reshape({"images": [-1, 3, -1, -1], "padding_mask": [-1, -1, -1]})
    for key, text in metadata(model).items():
        converted.set_rt_info(text, ["conditional_detr", key])
    return converted


def with_16_bit_weights(proto: Any) -> Any:
    """Return a copy of the graph with large weights in bfloat16, which are converted to float32 when the graph is loaded.

    The file is half as large. The speed does not change, because ONNX Runtime has no bfloat16 matrix products on most CPUs.
    """
    onnx = import_package("onnx")
    proto = copy.deepcopy(proto)
    numpy_helper, helper, kind = onnx.numpy_helper, onnx.helper, onnx.TensorProto
    casts = []
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != kind.FLOAT or values.size < MANY:
            continue
        wide, name = tensor.name, f"{tensor.name}.bf16"
        rounded = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy()
        tensor.CopyFrom(helper.make_tensor(name, kind.BFLOAT16, values.shape, rounded.tobytes(), raw=True))
        casts.append(helper.make_node("Cast", [name], [wide], to=kind.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def write_onnx(proto: Any, file: Path) -> None:
    import_package("onnx").save(proto, file)


def write_openvino(converted: Any, file: Path, half: bool) -> None:
    """Write the graph and its weights, as two files. `half` stores the weights in 16 bits."""
    import_openvino().save_model(converted, file, compress_to_fp16=half)


def _axes(proto: Any) -> list[str]:
    """Names of the dynamic axes of the input images, in order."""
    return [axis.dim_param for axis in proto.graph.input[0].type.tensor_type.shape.dim if axis.dim_param]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context manager that suppresses the output of converters. Their warnings are about internals. Errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
