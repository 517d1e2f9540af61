"""A folder with a page that detects objects in a browser, on the device of its user and without a network."""

import json
import lzma
from importlib.resources import files
from pathlib import Path

from conditional_detr.factory.build import DetectionModel
from conditional_detr.weights.description import describe

LOCAL = ("local/backend.js", "local/pixels.js", "local/postprocess.js", "local/worker.js")  # run the network
SHARED = (
    "index.html", "page.css", "attention.js", "camera.js", "drawing.js", "geometry.js", "gestures.js", "page.js", "results.js",
)  # fmt: skip
RUNTIME = "ort"  # folder of ONNX Runtime Web
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "LICENSE.txt")
COMPRESSED = "ort-wasm-simd-threaded.wasm.xz"


def write_page(model: DetectionModel, folder: Path, name: str) -> None:
    """Add the page to the folder of an ONNX export: its files, ONNX Runtime Web, and a description of the model.

    Parameters
    ----------
    model : the model that was exported
    folder : existing folder with `model.onnx`
    name : what the page calls the model
    """
    source = files("conditional_detr").joinpath("page")
    for file in (*SHARED, *LOCAL):
        (folder / Path(file).name).write_bytes(source.joinpath(file).read_bytes())
    runtime = folder / RUNTIME
    runtime.mkdir(exist_ok=True)
    for file in RUNTIME_FILES:
        (runtime / file).write_bytes(source.joinpath(RUNTIME, file).read_bytes())
    packed = source.joinpath(RUNTIME, COMPRESSED).read_bytes()
    (runtime / COMPRESSED.removesuffix(".xz")).write_bytes(lzma.decompress(packed))
    known = describe(model)
    preprocessor = model.preprocessor.model_dump() | {"longest": model.preprocessor.longest}
    content = {key: known.get(key) for key in ("class_names", "category_ids", "thresholds", "nms_iou")}
    content |= {"name": name, "summary": f"{model.summary}, in your browser", "preprocessor": preprocessor}
    content |= {"classification": model.config.classification}
    (folder / "model.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
