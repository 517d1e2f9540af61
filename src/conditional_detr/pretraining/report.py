"""The report of a pre-training run: losses, and patches with the places where they were found."""

from typing import Any

import numpy as np
from torch import Tensor

from conditional_detr.config.run import RunConfig
from conditional_detr.config.toml import to_toml
from conditional_detr.data.index import SplitIndex
from conditional_detr.errors import plural
from conditional_detr.evaluation import plots
from conditional_detr.evaluation.pages import duration, embedded, write_page
from conditional_detr.evaluation.report import jpeg
from conditional_detr.factory.build import DetectionModel
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.inference.drawing import draw
from conditional_detr.pretraining.finding import Found, found_patches
from conditional_detr.storage.run_files import REPORT
from conditional_detr.training.artifacts.run_folder import RunFolder
from conditional_detr.weights.discovery import load_model

IMAGES, PATCHES = 8, 5  # that are shown
TRUE, ANSWER = "#059669", "#EA580C"
CURVES = {
    "loss": ({"loss": "all terms"}, "The training loss."),
    "AP": ({"AP": "AP", "AP50": "AP50"}, "How well patches are found in the images that are held out."),
}


def write_pretraining_report(folder: RunFolder, config: RunConfig, index: SplitIndex, history: list[dict[str, Any]]) -> None:
    """Write `report.html` to the folder of a finished run.

    Raises
    ------
    RunError : the file cannot be written
    """
    model = load_model(folder.best)
    best = max(history, key=lambda row: row["AP"] or 0)
    shown = range(0, len(index), max(1, -(-len(index) // IMAGES)))
    preprocessor = Preprocessor(model.preprocessor)
    content = {
        "title": f"Pre-training run {folder.path.resolve().name}",
        "facts": {
            "images": f"{config.data}, {plural(len(index), 'image')} held out",
            "model": f"{config.model}, {model.config.patches} patches per image, shorter side {config.imgsz} px",
            "length": f"{plural(len(history), 'epoch')}, {duration(sum(row['seconds'] for row in history))}",
            "best epoch": f"{best['epoch']}, with AP {best['AP'] or 0:.3f}",
        },
        "curves": [_curve(history, name) for name in CURVES],
        "history": history,
        "columns": ["epoch", "loss", "loss_ce", "loss_bbox", "loss_giou", "loss_feature", "AP", "AP50"],
        "images": [_shown(found, index, preprocessor) for found in found_patches(model, index, shown, config.imgsz, {})],
        "settings": to_toml(config),
    }
    write_page(folder.path / REPORT, "pretraining", content)


def _curve(history: list[dict[str, Any]], name: str) -> dict[str, str]:
    lines, caption = CURVES[name]
    bands = [plots.Band(text, [[row.get(column) for row in history]]) for column, text in lines.items()]
    return {"svg": embedded(plots.learning_curves(bands, name)), "alt": f"{name} by epoch", "caption": caption}


def sample_of_finding(model: DetectionModel, index: SplitIndex) -> np.ndarray | None:
    """An image with the boxes of some patches, uint8 [H, W, 3]; None if it cannot be read."""
    was_training = model.training
    found = next(iter(found_patches(model.eval(), index, range(1), model.preprocessor.imgsz, {})), None)
    model.train(was_training)
    return None if found is None else _drawn(found, Preprocessor(model.preprocessor))


def _shown(found: Found, index: SplitIndex, preprocessor: Preprocessor) -> dict[str, Any]:
    """An image with the boxes of some patches, and these patches."""
    return {
        "name": index.paths[found.position].rpartition("/")[2],
        "jpeg": embedded(jpeg(_drawn(found, preprocessor))),
        "patches": embedded(jpeg(np.concatenate([_pixels(patch) for patch in found.patches[:PATCHES]], axis=1))),
    }


def _drawn(found: Found, preprocessor: Preprocessor) -> np.ndarray:
    count = min(PATCHES, len(found.patches))
    rgb = _pixels(preprocessor.denormalise(found.image))
    size = np.array([rgb.shape[1], rgb.shape[0]] * 2)
    boxes = np.concatenate([found.boxes[:count].numpy(), found.answers[:count].numpy()]).clip(0, 1) * size
    kinds, texts = np.repeat([0, 1], count), [str(k + 1) for k in range(count)] * 2
    drawn: np.ndarray = draw(rgb, boxes, kinds, texts, (TRUE, ANSWER))
    return drawn


def _pixels(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()
