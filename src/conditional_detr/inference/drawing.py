"""Draw boxes and labels on images, with supervision."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from conditional_detr.errors import RunError
from conditional_detr.storage.writing import writing

if TYPE_CHECKING:
    import supervision as sv

LEGIBLE_SIDE = 480  # px; smaller images are enlarged by an integer factor, so that labels can be read


def draw(rgb: np.ndarray, detections: "sv.Detections", labels: list[str], colours: Sequence[str] | None = None) -> np.ndarray:
    """Draw boxes and labels on a copy of an image.

    Parameters
    ----------
    rgb : uint8 [H, W, 3]
    detections : boxes in pixels of the image, with class_id
    labels : one text per box
    colours : hex colours such as "#059669", indexed by class_id; None = supervision's default palette
    """
    import supervision as sv

    factor = max(1, -(-LEGIBLE_SIDE // min(rgb.shape[:2]))) if max(rgb.shape[:2]) < LEGIBLE_SIDE else 1
    scene = np.ascontiguousarray(rgb[:, :, ::-1].repeat(factor, 0).repeat(factor, 1))  # supervision draws BGR
    if not len(detections):
        return np.ascontiguousarray(scene[:, :, ::-1])
    height, width = scene.shape[:2]
    enlarged = sv.Detections(xyxy=detections.xyxy * factor, class_id=detections.class_id)
    scale = sv.calculate_optimal_text_scale(resolution_wh=(width, height))
    thickness = sv.calculate_optimal_line_thickness(resolution_wh=(width, height))
    palette = sv.ColorPalette.DEFAULT if colours is None else sv.ColorPalette.from_hex(list(colours))
    scene = sv.BoxAnnotator(palette, thickness=thickness).annotate(scene, enlarged)
    annotator = sv.LabelAnnotator(
        palette, text_scale=scale, text_thickness=max(1, thickness // 2), text_padding=4, smart_position=True
    )
    scene = annotator.annotate(scene, enlarged, labels=labels)
    return np.ascontiguousarray(scene[:, :, ::-1])


def score_labels(detections: "sv.Detections") -> list[str]:
    """Label for each box, with class name and score, such as `cat 0.87`."""
    if detections.confidence is None:
        return []
    return [f"{n} {s:.2f}" for n, s in zip(detections.data["class_name"], detections.confidence, strict=True)]


def save_image(rgb: np.ndarray, file: Path) -> None:
    """Write an image. The suffix of the file name determines the format."""
    with writing(file, RunError):
        Image.fromarray(rgb).save(file, quality=92)
