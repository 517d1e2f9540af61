"""Export a model to a folder that an engine can run, and verify that it gives the same results."""

import copy
import importlib
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch.export import ExportedProgram

from conditional_detr.data.index import SplitIndex, load_split, match_categories, sources
from conditional_detr.errors import (
    CheckpointError,
    ConditionalDETRError,
    ConfigError,
    DataError,
    ExportError,
    did_you_mean,
)
from conditional_detr.exporting import graph
from conditional_detr.exporting.browser import find_browser, run_in_browser
from conditional_detr.exporting.mixed_precision import keep_in_float32, nodes_in_float32
from conditional_detr.exporting.opset import DEFAULT, OPSETS
from conditional_detr.exporting.quantisation import Calibration, quantised_onnx, quantised_openvino
from conditional_detr.exporting.rounding import modules_in_float32, modules_not_in_integers
from conditional_detr.exporting.verification import Found, agreement, average_precision, detect_all, latencies_ms
from conditional_detr.exporting.web import write_page
from conditional_detr.factory.build import DetectionModel
from conditional_detr.images.decoding import ImageInput
from conditional_detr.images.synthetic import synthetic_images
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.engines import first_line, import_openvino, import_package
from conditional_detr.inference.progress import Report, unreported
from conditional_detr.storage.atomic import atomic_folder
from conditional_detr.weights.discovery import load_detector
from conditional_detr.weights.exported import ENGINE_OF, GRAPHS, PRECISIONS, PROOF, write_description
from conditional_detr.weights.recognise import is_export

MAX_DROP = {"fp32": 0.005, "bf16": 0.005, "int8": 0.01}  # largest drop of AP that passes, by precision


def export(  # noqa: PLR0913 · public interface
    source: str | Path | DetectionModel,
    folder: str | Path,
    format: str = "openvino",
    precision: str = "bf16",
    data: str | Path | None = None,
    max_drop: float | None = None,
    split: str = "valid",
    report: Report = unreported,
    opset: int | None = None,
) -> Path:
    """Export a model as a graph for ONNX Runtime or OpenVINO, with a `proof.json` that compares it with the original.

    Inputs of the graph are `images`, float32 [B, 3, H, W], normalised, and `padding_mask`, bool [B, H, W], True = padding.
    Height and width may be any that the preprocessing produces. Outputs are `logits` [B, Q, K] and `boxes` [B, Q, 4], which are
    cx, cy, w, h in [0, 1], relative to the unpadded image. Preprocessing and class names are in the metadata of the graph.
    `Detector`, `evaluate` and the commands accept the folder as a source.

    Parameters
    ----------
    source : see `load_model`, or a model, which is copied
    folder : output folder. It must be new, empty or an earlier export, which is replaced
    format : "onnx"; "openvino"; or "web", an ONNX graph with a page that runs it in a browser
    precision : "fp32"; "bf16" = 16-bit weights, and computation in 16 bits if the processor supports it; "int8" = calibrated on
        the training images of `data`
    data : data set; both models are evaluated on one of its splits. None = they are compared on synthetic images, which is a
        weaker proof and never fails
    max_drop : largest allowed drop of AP; None = 0.005, for int8 0.01
    split : split for the evaluation: "valid", "train" or "test"
    report : function that receives lines of progress, for example print
    opset : operator set of ONNX, 16 to 20; None = 20

    Returns
    -------
    the folder

    Raises
    ------
    ConfigError : an unknown format or precision
    ExportError : the model cannot be converted, or the export's AP is lower by more than `max_drop`. In the second case a new
        folder is kept with its proof, and an earlier export stays unchanged
    UnavailableError : the packages for the format are not installed
    """
    if format not in GRAPHS:
        raise ConfigError(f"there is no format {format!r}. {did_you_mean(format, GRAPHS)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"there is no precision {precision!r}. {did_you_mean(precision, PRECISIONS)}")
    if opset is not None and (ENGINE_OF[format] != "onnx" or opset not in OPSETS):
        raise ConfigError(
            f"opset must be {OPSETS[0]} to {OPSETS[-1]}, with the formats onnx and web only; it is {opset} with {format}. "
            f"Use --format onnx --opset {OPSETS[0]} (up to {OPSETS[-1]}), or leave --opset out"
        )
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise ConfigError(f"max_drop must be in [0, 1], not {max_drop}")
    folder = Path(folder).absolute()  # "." would refer to another folder after the replacement
    if folder.is_file():
        raise ConfigError(f"{folder} is a file: the output must be a folder")
    if folder.is_dir() and (others := sorted(path.name for path in folder.iterdir())) and not is_export(folder):
        raise ConfigError(f"{folder} is not an export (found: {', '.join(others[:3])}): give a new or empty folder")
    for name in packages_of(format, precision):
        import_package(name)
    report("loading the model and the data")
    index = None if data is None else load_split(data, split)
    model = load_detector(source)
    model = copy.deepcopy(model) if model is source else model
    if index is not None:  # fails early if the classes do not match
        match_categories(model.class_names, model.category_ids, index.categories, str(index.file))
    calibration = _calibration_images(data, split) if precision == "int8" else ((), None)
    exporter = Exporter(model.eval().cpu(), format, index, *calibration)
    exporter.name = Path(source).name if isinstance(source, str | Path) else "model"
    exporter.report = report
    exporter.opset = opset
    return exporter.export(folder, precision, max_drop)


def _calibration_images(data: str | Path | None, split: str) -> tuple[Sequence[ImageInput], str]:
    """Return calibration images for int8, and a description of them.

    They are the training images, or the images of the proof if there is no training split.
    """
    if data is None:
        return synthetic_images(), "synthetic images"
    used = "train" if "train" in sources(Path(data)) else split
    same = ", which the proof is of too" if used == split else ""
    return load_split(data, used).paths, f"the split {used}{same}"


def packages_of(format: str, precision: str) -> tuple[str, ...]:
    """Return the names of the packages that an export needs."""
    if ENGINE_OF[format] == "onnx":
        return "onnx", "onnxscript", "onnxruntime"
    import_openvino()  # before NNCF
    return ("openvino", "nncf") if precision == "int8" else ("openvino",)


class NoBrowser(ConditionalDETRError):
    """There is no browser for a proof."""


class Run(NamedTuple):
    """What an export found in the images of a proof.

    Attributes
    ----------
    engine : description of the engine
    found : detections by position of the image
    latencies_ms : measures the median time of an image, in ms, of the original and of the export
    """

    engine: str
    found: Found
    latencies_ms: Callable[[], list[float]]


class Exporter:
    """Exports a model to a format, in any precision.

    Parameters
    ----------
    model : model in eval mode, on the CPU
    format : a key of `GRAPHS`
    index : images and ground truth for the proof; None = synthetic images without ground truth
    calibration : calibration images for int8
    calibrated_on : description of the calibration images, for the proof

    Attributes
    ----------
    report : function that receives lines of progress
    """

    def __init__(
        self,
        model: DetectionModel,
        format: str,
        index: SplitIndex | None,
        calibration: Sequence[ImageInput] = (),
        calibrated_on: str | None = None,
    ) -> None:
        self.model, self.format, self.index = model, format, index
        self.opset: int | None = None  # of ONNX; None = the default
        self.calibration, self.calibrated_on = calibration, calibrated_on
        self.report: Report = unreported
        self.images: Sequence[ImageInput] = synthetic_images() if index is None else index.paths
        self.name = "model"  # what the page of an export for browsers calls it
        self.original = Detector(copy.deepcopy(model), device="cpu").model

    @cached_property
    def program(self) -> ExportedProgram:
        self.report("tracing the model")
        return graph.traced(self.model)

    @cached_property
    def converted(self) -> Any:
        program = self.program
        self.report(f"converting the model to {self.format}")
        if ENGINE_OF[self.format] == "onnx":
            return graph.to_onnx(self.model, program, self.opset)
        return graph.to_openvino(self.model, program)

    @cached_property
    def found(self) -> Found:
        found = detect_all(self.original, self.images, self.index, "proof: detections of the model, image", self.report)
        if not found:
            raise DataError(f"none of the {len(self.images)} images of the proof can be read")
        return found

    def export(self, folder: Path, precision: str, max_drop: float | None = None) -> Path:
        """Write the export and its proof, see the function `export`."""
        allowed = MAX_DROP[precision] if max_drop is None else max_drop
        _ = self.found  # fails early if no image can be read
        refusal = None
        with atomic_folder(folder) as new:
            self.write(new, precision)
            proof = self.prove(new, precision, allowed)
            (new / PROOF).write_text(json.dumps(proof, indent=1, ensure_ascii=False), encoding="utf-8")
            if proof["passed"] is False:
                refusal = ExportError(self._refusal(folder, precision, proof, max_drop))
                if is_export(folder):
                    raise refusal
        if refusal is not None:
            raise refusal
        return folder

    def write(self, folder: Path, precision: str) -> None:
        """Write graph and description to an existing folder."""
        try:
            self._write(folder / GRAPHS[self.format], precision)
        except (OSError, ConditionalDETRError):
            raise
        except Exception as error:  # converters raise errors of any class
            raise ExportError(f"the model cannot be converted to {self.format} in {precision}: {first_line(error)}") from error
        write_description(self.model, folder, self.format, precision)
        if self.format == "web":
            write_page(self.model, folder, self.name)

    def _write(self, file: Path, precision: str) -> None:
        made = self.converted
        calibration, kept = None, modules_not_in_integers(self.model)
        if precision == "int8":
            self.report("quantising: preparing the graph")
            calibration = Calibration(self.model, self.calibration, self.report)
        if self.format == "openvino":
            if calibration is not None:
                made = quantised_openvino(made, self.program, calibration, kept)
            self.report("writing the graph")
            graph.write_openvino(made, file, half=precision != "fp32")
            if precision != "fp32":
                keep_in_float32(file, nodes_in_float32(made, graph.modules_of(self.program), modules_in_float32(self.model)))
        elif calibration is not None:
            quantised_onnx(made, calibration, kept, file)
        else:
            self.report("writing the graph")
            graph.write_onnx(graph.with_16_bit_weights(made) if precision == "bf16" else made, file)

    def run(self, folder: Path) -> Run:
        """Detect objects with an export in the images of the proof.

        Raises
        ------
        CheckpointError : it cannot be run
        """
        if self.format == "web":
            return self._run_in_browser(folder)
        self.report("proof: loading the export")
        engine = Detector(folder).model
        found = detect_all(engine, self.images, self.index, "proof: detections of the export, image", self.report)
        return Run(engine.summary, found, lambda: latencies_ms([self.original, engine], self.read_images, self.report))

    def _run_in_browser(self, folder: Path) -> Run:
        browser = find_browser()
        if browser is None:
            raise NoBrowser("no Chromium was found on the PATH: install one and export again to prove the result")
        result = run_in_browser(folder, self.images, browser, self.report)
        fits = {i: self.index is None or self.index.has_size(i, size) for i, size in result.sizes_hw.items()}
        found = {i: record for i, record in result.found.items() if fits[i]}
        ours = latencies_ms([self.original], self.read_images, self.report)[0]
        return Run(f"ONNX Runtime Web in {result.browser}", found, lambda: [ours, result.ms])

    @property
    def read_images(self) -> list[ImageInput]:
        """The images of the proof that can be read."""
        return [self.images[i] for i in self.found]

    def compare(self, found: Found) -> dict[str, float | None]:
        """AP of the original and of an export that found this, with the drop, over the images that both could read."""
        if self.index is None:
            return {"original": None, "exported": None, "drop": None}
        self.report("proof: computing the AP")
        ours = {i: record for i, record in self.found.items() if i in found}
        before, after = (average_precision(self.original, by, self.index) for by in (ours, found))
        return {"original": before, "exported": after, "drop": _drop(before, after)}

    def prove(self, folder: Path, precision: str, allowed: float) -> dict[str, Any]:
        """Return the content of `proof.json` for the export in a folder. "passed" is None if no AP can be compared."""
        packages = ("torch", *packages_of(self.format, precision))
        made = "synthetic images without labels: no AP is compared, so the check cannot fail"
        what = {
            "format": self.format, "precision": precision,
            "opset": (self.opset or DEFAULT) if ENGINE_OF[self.format] == "onnx" else None,
            "data": made if self.index is None else str(self.index.file), "images": len(self.found),
            "unreadable": len(self.images) - len(self.found) + (0 if self.index is None else len(self.index.missing)),
            "calibrated_on": self.calibrated_on,
            "versions": {name: importlib.import_module(name).__version__ for name in packages},
        }  # fmt: skip
        try:
            run = self.run(folder)
        except NoBrowser as error:
            return {"passed": None, "fault": str(error)} | what
        except CheckpointError as error:  # scores are not finite, or the engine cannot run the graph
            return {"passed": None if self.index is None else False, "fault": str(error)} | what
        ap, (ours, theirs) = self.compare(run.found), run.latencies_ms()
        return {
            # None without objects, or if the original has AP 0.
            "passed": ap["drop"] <= allowed if ap["original"] and ap["drop"] is not None else None,
            "AP": ap | {"max_drop": allowed},
            "boxes": agreement({i: self.found[i] for i in run.found}, run.found).to_dict(),
            "latency_ms": {"original": ours, "exported": theirs, "of": "a decoded image to its boxes, median"},
            "run_by": run.engine,
        } | what  # fmt: skip

    def _refusal(self, folder: Path, precision: str, proof: dict[str, Any], max_drop: float | None) -> str:
        """Return the message for a failed export: the reason, and a precision that would pass."""
        if "fault" in proof:
            text = proof["fault"]
        else:
            ap = proof["AP"]
            text = (
                f"AP falls from {ap['original']:.4f} to {ap['exported']:.4f}, by {ap['drop']:.4f}, more than {ap['max_drop']:g}"
            )
        there = "The earlier export is unchanged" if is_export(folder) else "The failed export is kept for inspection"
        better = PRECISIONS[: PRECISIONS.index(precision)][::-1]
        for other in better:
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    self.write(Path(scratch), other)
                    drop = self.compare(self.run(Path(scratch)).found)["drop"]
                except (CheckpointError, ExportError):
                    continue
            if drop is not None and drop <= (MAX_DROP[other] if max_drop is None else max_drop):
                return f"{folder}, {precision}: {text}. --precision {other} would pass. {there}"
        tried = f". {' and '.join(better)} would not pass either" if better else ""
        return f"{folder}, {precision}: {text}{tried}. {there}"


def _drop(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after
