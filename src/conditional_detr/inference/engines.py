"""Run exported models with ONNX Runtime or OpenVINO, through the same interface as a `DetectionModel`."""

import importlib
import os
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from conditional_detr.device.threads import current_threads
from conditional_detr.errors import CheckpointError, UnavailableError
from conditional_detr.weights.exported import ENGINE_OF, Exported

INPUTS, OUTPUTS = ("images", "padding_mask"), ("logits", "boxes")  # input and output names of every exported graph
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
EXTRAS = {"onnx": ("onnx",), "openvino": ("openvino", "nncf")}  # first letters of their packages; all others belong to `serve`
Run = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
Engine = tuple[Run, str]  # the function that runs a batch, and the name of its floating-point type
# OpenVINO's names: capability of the processor → precision to compute in.
FLOATS = {"BF16": "bf16", "FP16": "f16"}


class EngineModel:
    """An exported model with its preprocessing and its classes, run by an engine.

    It can be pickled and copied. A copy, and a process that was forked, load the graph again: an engine's threads belong to the
    process that started them.

    Attributes
    ----------
    config, preprocessor, class_names, category_ids, thresholds, nms_iou : as in `DetectionModel`
    device : always the CPU
    summary : description of format, precision and engine
    """

    takes_arrays = True
    device = "cpu"

    def __init__(self, exported: Exported, runtime: str) -> None:
        self.config, self.preprocessor = exported.config, exported.preprocessor
        self.class_names, self.category_ids = list(exported.class_names), list(exported.category_ids)
        self.thresholds, self.nms_iou = exported.thresholds, exported.nms_iou
        self._exported, self._runtime, self._lock = exported, runtime, threading.Lock()
        computes_in = self._load()
        number = computes_in.replace("f32", "fp32")
        parts = f"8-bit parts in int8, others in {number}" if exported.precision == "int8" else f"computed in {number}"
        self.summary = f"{exported.format} {exported.precision}, run by {PACKAGES[runtime]}, {parts}"

    def __call__(self, images: np.ndarray, padding_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and boxes of the last decoder layer, for float32 [B, 3, H, W] and bool [B, H, W] (True = padding)."""
        with self._lock:
            if self._process != os.getpid():
                self._load()
        return self._run(images, padding_mask)

    def _load(self) -> str:
        """Load the graph into this process. Returns the name of the floating-point type."""
        self._run, computes_in = ENGINES[self._runtime](self._exported, current_threads())
        self._process = os.getpid()
        return computes_in

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_run", "_lock")} | {"_process": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())
        self._load()


def onnx_engine(exported: Exported, threads: int) -> Engine:
    """Run an export with ONNX Runtime on the CPU."""
    onnxruntime = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(exported.graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has its own exception class for each kind of error
        raise _damaged(exported, "ONNX Runtime", error) from None
    return lambda *inputs: tuple(session.run(list(OUTPUTS), dict(zip(INPUTS, inputs, strict=True)))), "f32"


def openvino_engine(exported: Exported, threads: int) -> Engine:
    """Run an export with OpenVINO on the CPU. OpenVINO also reads ONNX files."""
    openvino = import_openvino()
    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    wanted = "f32"
    if exported.precision != "fp32":  # int8 too: its floating-point layers run in 16 bits if the processor supports that
        wanted = next((name for capability, name in FLOATS.items() if capability in able), "f32")
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": wanted, "PERFORMANCE_HINT": "LATENCY"}
    try:
        compiled = core.compile_model(core.read_model(exported.graph), "CPU", options)
    except RuntimeError as error:
        raise _damaged(exported, "OpenVINO", error) from None
    mine = threading.local()  # an infer request can be used by one thread at a time

    def run(images: np.ndarray, padding_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not hasattr(mine, "request"):
            mine.request = compiled.create_infer_request()
        results = mine.request.infer(dict(zip(INPUTS, (images, padding_mask), strict=True)), share_inputs=True)
        logits, boxes = (results[name] for name in OUTPUTS)
        return logits, boxes

    return run, compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()


ENGINES: dict[str, Callable[[Exported, int], Engine]] = {"onnx": onnx_engine, "openvino": openvino_engine}


def best_engine(exported: Exported) -> str:
    """Default engine for an export: that of its format, which the proof was made with. OpenVINO is a fallback for ONNX."""
    can = ("onnx", "openvino") if ENGINE_OF[exported.format] == "onnx" else ("openvino",)
    return next((name for name in can if find_spec(PACKAGES[name])), can[0])


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry.

    OpenVINO and NNCF send usage reports when they are imported. This function marks their telemetry package as missing; both
    work without it.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    return import_package("openvino")


def _damaged(exported: Exported, engine: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{exported.graph} cannot be run by {engine}: the file is damaged, or was written by an incompatible "
        f"version. Export again. ({first_line(error)})"
    )


def first_line(error: Exception) -> str:
    """First line of a library's error message, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from ")]
    return (lines or [type(error).__name__])[0][:200]


def import_package(name: str) -> Any:
    """Import an optional package, which one of this library's extras installs.

    Raises
    ------
    UnavailableError : the package is not installed or cannot be imported
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = next((extra for extra, start in EXTRAS.items() if name.startswith(start)), "serve")
        if find_spec(name.split(".")[0]) is None:
            raise UnavailableError(f"{name} is not installed: pip install 'conditional-detr[{extra}]'") from None
        raise UnavailableError(
            f"{name} is installed but cannot be used ({first_line(error)}): pip install --force-reinstall "
            f"'conditional-detr[{extra}]'"
        ) from None
