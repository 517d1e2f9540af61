"""Prepare images for an exported model, and postprocess its output, without PyTorch."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from conditional_detr.images.array_postprocessing import postprocess_arrays
from conditional_detr.images.array_preprocessing import collate_arrays
from conditional_detr.images.array_preprocessing import prepare_array as prepare

__all__ = ["OPTIONS", "inference_mode", "inputs_of", "prepare", "records_of"]
inference_mode = nullcontext
OPTIONS: dict[str, Any] = {}  # keyword arguments of the model


def inputs_of(model: Any, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return batch and padding mask for prepared images of one size."""
    return collate_arrays(images, model.preprocessor)


def records_of(model: Any, output: Any, sizes_hw: np.ndarray, top_k: int) -> list[dict[str, np.ndarray]] | None:
    """Return the detections of each image, as in `postprocess`. None if scores are not finite."""
    logits, boxes = output
    if not np.isfinite(logits).all():
        return None
    return postprocess_arrays(logits, boxes, sizes_hw, top_k, model.config.classification)
