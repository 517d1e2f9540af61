"""A model as a graph for images of every size: recorded once by PyTorch, written by ONNX's or OpenVINO's converter."""

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

from conditional_detr.factory.build import DetectionModel
from conditional_detr.inference.engines import INPUTS, OUTPUTS, import_openvino, import_package
from conditional_detr.weights import native

ANY_SIZE = 2**40  # bytes
MANY = 1024  # weights; smaller tensors stay as they are
EXAMPLE_CELLS = 3  # of the example image's side, in steps of the size that images come in; its sides differ by one


class DetectionGraph(nn.Module):
    """(images [B, 3, H, W], padding mask [B, H, W]) → class logits [B, Q, K] and boxes [B, Q, 4], of the last layer."""

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(images, padding_mask, aux=False)
        return output.pred_logits, output.pred_boxes


def traced(model: DetectionModel) -> ExportedProgram:
    """The graph of a model in eval mode, on the CPU: any batch, height and width, in the steps that its preprocessing makes."""
    step = model.preprocessor.size_multiple
    unit = max(step, 32)
    height, width = EXAMPLE_CELLS * unit, (EXAMPLE_CELLS + 1) * unit
    example = torch.zeros(2, 3, height, width), torch.zeros(2, height, width, dtype=torch.bool)
    batch = Dim("batch")
    least = unit + 1  # the recording tells one cell from many; the graph does not, once it is written
    sides = [step * Dim(f"{name}_in_steps") if step > 1 else Dim(name, min=least) for name in ("height", "width")]
    shapes = {0: batch, 2: sides[0], 3: sides[1]}, {0: batch, 1: sides[0], 2: sides[1]}
    with quiet(), torch.no_grad():
        return torch.export.export(DetectionGraph(model), example, dynamic_shapes=shapes, strict=False)


def modules_of(program: ExportedProgram) -> dict[str, str]:
    """The path of the module that each node of a recorded graph comes from."""
    stacks = {node.name: node.meta.get("nn_module_stack") for node in program.graph.nodes}
    return {name: list(stack.values())[-1][0] for name, stack in stacks.items() if stack}


def metadata(model: DetectionModel) -> dict[str, str]:
    """What travels inside a graph: classes, preprocessing and what the model is, each as JSON."""
    return {key: json.dumps(value, ensure_ascii=False) for key, value in native.describe(model).items()}


def to_onnx(model: DetectionModel, program: ExportedProgram) -> Any:
    """An `onnx.ModelProto`, by the dynamo exporter."""
    import_package("onnx")
    optimizer = import_package("onnxscript.optimizer")
    with quiet():
        written = torch.onnx.export(program, (), dynamo=True, input_names=INPUTS, output_names=OUTPUTS, verbose=False)
        assert written is not None
        # All that does not depend on the image, of whatever size: the exporter itself stops at 8192 numbers.
        optimizer.optimize_ir(written.model, input_size_limit=ANY_SIZE, output_size_limit=ANY_SIZE)
    proto = written.model_proto
    names = dict(zip(_axes(proto), ("batch", "height", "width"), strict=True))
    for value in (*proto.graph.input, *proto.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]
    for key, text in metadata(model).items():
        proto.metadata_props.add(key=key, value=text)
    return proto


def to_openvino(model: DetectionModel, program: ExportedProgram) -> Any:
    """An `openvino.Model`."""
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
    """A copy of the graph with large weights kept in bfloat16 and widened when it is loaded.

    ONNX Runtime has no bfloat16 products on most processors, so the file is half as large and the speed float32's.
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
    """The graph and, beside it, its weights: in 16 bits if `half`."""
    import_openvino().save_model(converted, file, compress_to_fp16=half)


def _axes(proto: Any) -> list[str]:
    """The names of the dynamic axes of the images, in order."""
    return [axis.dim_param for axis in proto.graph.input[0].type.tensor_type.shape.dim if axis.dim_param]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Converters' warnings and progress are about their own insides; what they must say they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
