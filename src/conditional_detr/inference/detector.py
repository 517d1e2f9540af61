"""The `Detector`: images in, `supervision.Detections` out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conditional_detr.errors import ConfigError
from conditional_detr.images.decoding import ImageInput
from conditional_detr.inference.batching import Model, detect
from conditional_detr.inference.engines import ENGINES, EngineModel, best_engine
from conditional_detr.inference.results import clip_to_image, selected, to_detections
from conditional_detr.inference.tiles import tiling_of
from conditional_detr.weights.exported import ENGINE_OF, read_exported
from conditional_detr.weights.recognise import find_checkpoint, is_export

if TYPE_CHECKING:
    import supervision as sv
    import torch

    from conditional_detr.factory.build import DetectionModel


RUNTIMES = ("auto", "torch", *ENGINES)


def check_conf(conf: float | None) -> None:
    """Check that a score threshold is in [0, 1] or None (use the model's own thresholds)."""
    if conf is not None and not 0 <= conf <= 1:
        raise ConfigError(f"conf must be in [0, 1], not {conf}")


class Detector:
    """A model with its preprocessing and postprocessing, ready for inference.

    Parameters
    ----------
    source : a run folder, a checkpoint folder, an exported folder, a model name, a Hub id, or a model. A model is moved to the
        device, converted to float32 and set to eval mode
    runtime : "torch" for checkpoints; "onnx" or "openvino" for exported folders, on the CPU (OpenVINO also runs ONNX exports);
        "auto" = torch for a checkpoint, and for an export the engine of its format, which its proof was made with
    device : "auto", "cpu", "cuda", "cuda:1", "mps"
    tile : side of the overlapping tiles that larger images are cut into, px; 0 = whole images; None = as the model was trained.
        Objects are searched in the whole image and in each tile
    overlap : overlap of neighbouring tiles, as a share of their side; None = the model's, 0.2 unless it was trained otherwise

    Examples
    --------
    >>> import numpy as np
    >>> from conditional_detr.factory.create import create_model
    >>> detector = Detector(create_model("conditional-detr-tiny", num_classes=2, pretrained_backbone=False))
    >>> detections = detector(np.zeros((48, 64, 3), dtype=np.uint8), conf=0.9)
    >>> len(detections), len(detections[0])
    (1, 0)
    """

    def __init__(
        self,
        source: "str | Path | DetectionModel",
        runtime: str = "auto",
        device: "str | torch.device" = "auto",
        tile: int | None = None,
        overlap: float | None = None,
    ) -> None:
        if runtime not in RUNTIMES:
            raise ConfigError(f"runtime must be {' or '.join([', '.join(RUNTIMES[:-1]), RUNTIMES[-1]])}, not {runtime!r}")
        path = find_checkpoint(source) if isinstance(source, str | Path) else None
        self.model: Model
        if path is not None and is_export(path):
            self.model = _engine_model(path, runtime, str(device))
        elif runtime in ENGINES:
            raise ConfigError(f"runtime {runtime} runs exported folders: cdetr export SOURCE DIR --format {runtime} makes one")
        else:
            self.model = _torch_model(source, device)
        self.tiling = tiling_of(self.model.preprocessor, tile, overlap)

    @property
    def device(self) -> "torch.device | str":
        """The device that the model runs on; "cpu" for an export."""
        device: torch.device | str = self.model.device
        return device

    def __call__(
        self, images: ImageInput | Sequence[ImageInput], conf: float | None = None, batch: int = 8
    ) -> "list[sv.Detections]":
        """Detect objects in one image or several.

        Parameters
        ----------
        images : a path, a PIL image or a uint8 RGB array [H, W, 3], or a list of these
        conf : lowest score, in [0, 1]; None = the thresholds per class that were determined on the validation split, or 0.3 if
            the model has none
        batch : largest batch size; results do not depend on it

        Returns
        -------
        a list with one `supervision.Detections` per image, in input order, also for a single image. Each has at most 100
        detections, or 100 per tile, highest score first: `xyxy` in pixels of the original image, clipped to it, `confidence`,
        `class_id` (class index), `data["class_name"]` and `data["category_id"]` (the id in the data set)

        Raises
        ------
        ImageError : an image cannot be read; the message names it
        """
        check_conf(conf)
        is_list = isinstance(images, Sequence) and not isinstance(images, str)
        inputs: list[ImageInput] = list(images) if is_list else [images]  # type: ignore[arg-type,list-item]
        detections = {
            position: to_detections(selected(clip_to_image(rgb, result), self.model, conf), self.model)
            for position, rgb, result in detect(self.model, inputs, batch, tiling=self.tiling)
        }
        return [detections[i] for i in range(len(inputs))]


def _torch_model(source: "str | Path | DetectionModel", device: "str | torch.device") -> Model:
    """Load a checkpoint and move it to a device. A model is moved and converted to float32."""
    import torch

    from conditional_detr.device.choose import choose_device
    from conditional_detr.weights.discovery import load_detector

    model = load_detector(source)
    where = choose_device(device) if isinstance(device, str) else device
    model.to(where, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval()


def _engine_model(folder: Path, runtime: str, device: str) -> EngineModel:
    """Load an exported folder with an engine. Exports run on the CPU only."""
    export = read_exported(folder)
    if runtime == "torch" or (runtime == "onnx" and ENGINE_OF[export.format] != "onnx"):
        raise ConfigError(f"{folder} is exported to {export.format}: runtime {runtime} cannot run it, runtime auto can")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"{folder} is an export and runs on the CPU: device must be auto or cpu, not {device}")
    return EngineModel(export, best_engine(export) if runtime == "auto" else runtime)
