"""Quantise a model to 8-bit integers with NNCF (OpenVINO) or ONNX Runtime, calibrated on images.

These layers are quantised: the backbone, the encoder, self-attention, the content part of cross-attention and the feed-forward
layers. Two groups stay in floating point:

- the heads, because rounding a coordinate moves the box by pixels
- the layers that determine where a query attends: reference points, Λ_q and both spatial projections. If they are quantised,
  the AP of a model on the digits falls from 0.73 to 0.01 (decision 009)
"""

import ast
import copy
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.export import ExportedProgram

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.errors import DataError, ExportError, ImageError
from conditional_detr.exporting.graph import modules_of, quiet
from conditional_detr.exporting.rounding import IN_GRAPH, is_within
from conditional_detr.images.decoding import ImageInput, decode
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.inference.batching import Model
from conditional_detr.inference.engines import INPUTS, import_openvino, import_package
from conditional_detr.inference.progress import Report, counted, unreported

MAX_IMAGES, MIN_IMAGES = 128, 8  # number of calibration images
CALIBRATION_PIXELS = 28e6  # maximum number of pixels of all calibration images together, if there are more than MIN_IMAGES
BACKBONE = f"{IN_GRAPH}backbone."
# Activations are included because they limit the range of the preceding convolution.
ONNX_KINDS = ["Conv", "Gemm", "MatMul", "Clip", "Relu"]
SCOPES = "pkg.torch.onnx.name_scopes"  # metadata key of an ONNX node that holds its module path


class Calibration:
    """Calibration images, preprocessed as inputs of the graph.

    At most `images_for` of the given images are used, evenly spaced. Images that cannot be read are left out.

    Parameters
    ----------
    model : model whose preprocessing is used
    images : images; at least one must be readable
    report : function that receives a line of progress for each image
    """

    def __init__(self, model: Model, images: Sequence[ImageInput], report: Report = unreported) -> None:
        self.report = report
        self.preprocessor = Preprocessor(model.preprocessor)
        number = min(len(images), images_for(model.preprocessor))
        chosen = np.linspace(0, len(images) - 1, number).round().astype(int)
        self.images = [image for image in (images[i] for i in chosen) if _is_readable(image)]
        if not self.images:
            raise DataError("none of the images for calibration can be read")

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for image in counted(self.images, len(self), "quantising: calibration image", self.report):
            images, padding_mask = self.preprocessor.collate([self.preprocessor(decode(image))])
            mask = np.zeros((1, *images.shape[-2:]), dtype=bool) if padding_mask is None else padding_mask.numpy()
            yield dict(zip(INPUTS, (images.numpy(), mask), strict=True))


def images_for(config: PreprocessorConfig) -> int:
    """Number of images for calibration: 128, or fewer if they are large, for example 32 with a shorter side of 800 px.

    An aspect ratio of 4 : 3 is assumed.
    """
    return int(np.clip(CALIBRATION_PIXELS // (config.imgsz**2 * 4 / 3), MIN_IMAGES, MAX_IMAGES))


def _is_readable(image: ImageInput) -> bool:
    try:
        decode(image)
    except ImageError:
        return False
    return True


def quantised_openvino(converted: Any, program: ExportedProgram, calibration: Calibration, in_float: Collection[str]) -> Any:
    """Quantise an `openvino.Model` to int8.

    Parameters
    ----------
    converted, program : the OpenVINO model, and the PyTorch graph that it was converted from
    calibration : calibration images
    in_float : paths of modules that stay in floating point, see `modules_not_in_integers`
    """
    import_openvino()  # before NNCF, which would import OpenVINO with telemetry
    nncf = import_package("nncf")
    advanced = import_package("nncf.quantization.advanced_parameters")
    estimators = import_package("nncf.quantization.range_estimator")
    modules = modules_of(program)
    kept, products = [], 0
    for node in converted.get_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()  # such as linear_3/aten.linear.default/MatMul
        if kind in ("Constant", "Convolution", "GroupConvolution"):  # of backbone, neck and fusion
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
                overflow_fix=advanced.OverflowFix.ENABLE,  # 7-bit weights, see quantised_onnx
                activations_range_estimator_params=estimators.RangeEstimatorParametersSet.MINMAX,
                # No SmoothQuant: it takes another pass over all images and did not change the results (docs/experiments.md).
                smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
            ),
        )


def quantised_onnx(proto: Any, calibration: Calibration, in_float: Collection[str], file: Path) -> None:
    """Quantise an `onnx.ModelProto` to int8 with ONNX Runtime's tool, and write it.

    The inputs of every product are quantised and dequantised (QDQ format). The tool changes its input, so it is given a copy.
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
            extra_options={"DedicatedQDQPair": True},  # layers in floating point read the unquantised value
            reduce_range=True,  # 7-bit weights: with 8 bits, sums overflow on CPUs without VNNI
            activation_type=tool.QuantType.QUInt8, weight_type=tool.QuantType.QInt8,
        )  # fmt: skip


def _check_found(products: int) -> None:
    """Check that there is a product to quantise. Other versions of the converter may use names that are not recognised."""
    if not products:
        raise ExportError("int8: no matrix product of the encoder or decoder was found in the graph, so none can be quantised")


def stays_in_float(module: str, operation: str, in_float: Collection[str]) -> bool:
    """Whether a node stays in floating point.

    In the backbone all nodes are quantised, including the sums between convolutions. Elsewhere only linear layers and
    convolutions are, unless their module is in `in_float`.

    Parameters
    ----------
    module : path of the module that the node belongs to
    operation : name of the PyTorch operation that the node comes from
    in_float : paths of modules that stay in floating point
    """
    if f"{module}.".startswith(BACKBONE):
        return False
    return not operation.startswith(("linear", "conv2d")) or is_within(module, in_float)
