"""8-bit integers where the model bears them: NNCF's or ONNX Runtime's quantisation, calibrated on images.

In integers are the products of backbone, encoder, self-attention, content and feed-forward. In floating point stay the
heads, because a box's last digits are pixels, and all that says where a query looks: the reference points, Λ_q and both
spatial projections. With those in integers a model of AP 0.73 on digits has AP 0.01 (decision 009).
"""

import ast
import copy
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from conditional_detr.errors import DataError, ExportError, ImageError
from conditional_detr.exporting.graph import modules_of, quiet
from conditional_detr.exporting.rounding import IN_GRAPH, is_within
from conditional_detr.images.decoding import ImageInput, decode
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.inference.batching import Model
from conditional_detr.inference.engines import INPUTS, import_openvino, import_package

CALIBRATION_IMAGES = 128
BACKBONE = f"{IN_GRAPH}backbone."
ONNX_KINDS = ["Conv", "Gemm", "MatMul", "Clip", "Relu"]  # an activation cuts the range of the convolution before it
SCOPES = "pkg.torch.onnx.name_scopes"  # where an ONNX node says which modules it is of


class Calibration:
    """Images as a graph takes them, spread over those that there are; one that cannot be read is left out.

    Parameters
    ----------
    model : whose preprocessing it is
    images : one at least that can be read
    """

    def __init__(self, model: Model, images: Sequence[ImageInput]) -> None:
        self.preprocessor = Preprocessor(model.preprocessor)
        chosen = np.linspace(0, len(images) - 1, min(len(images), CALIBRATION_IMAGES)).round().astype(int)
        self.images = [image for image in (images[i] for i in chosen) if _is_readable(image)]
        if not self.images:
            raise DataError("none of the images for calibration can be read")

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for image in self.images:
            images, padding_mask = self.preprocessor.collate([self.preprocessor(decode(image))])
            mask = np.zeros((1, *images.shape[-2:]), dtype=bool) if padding_mask is None else padding_mask.numpy()
            yield dict(zip(INPUTS, (images.numpy(), mask), strict=True))


def _is_readable(image: ImageInput) -> bool:
    try:
        decode(image)
    except ImageError:
        return False
    return True


def quantised_openvino(converted: Any, program: ExportedProgram, calibration: Calibration, in_float: Collection[str]) -> Any:
    """An `openvino.Model` in int8.

    Parameters
    ----------
    converted, program : the model, and the graph that it was converted from
    calibration : images
    in_float : see `modules_not_in_integers`
    """
    import_openvino()  # before NNCF, which would bring it in with its reports
    nncf = import_package("nncf")
    advanced = import_package("nncf.quantization.advanced_parameters")
    estimators = import_package("nncf.quantization.range_estimator")
    modules = modules_of(program)
    kept, products = [], 0
    for node in converted.get_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()  # as in linear_3/aten.linear.default/MatMul
        if kind in ("Constant", "Convolution", "GroupConvolution"):  # all convolutions are before the encoder
            continue
        operation = name.split("/")[0]
        is_bias = operation.startswith("linear") and kind == "Add"
        if is_bias or stays_in_float(modules.get(operation, ""), operation, in_float):
            kept.append(name)
        else:
            products += kind == "MatMul"
    _check_found(products)
    with quiet():
        return nncf.quantize(
            converted,
            nncf.Dataset(calibration),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=advanced.OverflowFix.ENABLE,  # weights of 7 bits, as below
                activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX,
            ),
        )


def quantised_onnx(proto: Any, calibration: Calibration, in_float: Collection[str], file: Path) -> None:
    """Write an `onnx.ModelProto` in int8, by ONNX Runtime's own tool: quantised and restored around every product.

    The tool changes the graph that it is given, so it gets a copy.
    """
    tool = import_package("onnxruntime.quantization")
    kept, products = [], 0
    for node in proto.graph.node:
        scopes = next((ast.literal_eval(entry.value) for entry in node.metadata_props if entry.key == SCOPES), [""])
        if stays_in_float(".".join(scopes[-2:-1]), scopes[-1], in_float):
            kept.append(node.name)
        else:
            products += node.op_type in ("MatMul", "Gemm")
    _check_found(products)
    rest = iter(calibration)

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(rest, None)

    with quiet():
        tool.quantize_static(
            copy.deepcopy(proto), str(file), Reader(), op_types_to_quantize=ONNX_KINDS, nodes_to_exclude=kept, per_channel=True,
            extra_options={"DedicatedQDQPair": True},  # what stays in floating point reads the value from before
            reduce_range=True,  # weights of 7 bits: with 8, sums overflow on processors without VNNI
            activation_type=tool.QuantType.QUInt8, weight_type=tool.QuantType.QInt8,
        )  # fmt: skip


def _check_found(products: int) -> None:
    """Nodes are told apart by names that converters give them, which another version may give otherwise."""
    if not products:
        raise ExportError("int8: no product of encoder or decoder was found in the graph, so all would stay in floating point")


def stays_in_float(module: str, operation: str, in_float: Collection[str]) -> bool:
    """Whether a node does, by the module that it is of and the name of PyTorch's operation that it was recorded from.

    In the backbone the sums between its convolutions are in integers too; elsewhere only linear maps are.
    """
    if f"{module}.".startswith(BACKBONE):
        return False
    return not operation.startswith(("linear", "conv2d")) or is_within(module, in_float)
