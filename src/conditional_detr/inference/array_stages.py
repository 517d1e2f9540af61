"""Prepare images for an exported model, and read its output. Needs no PyTorch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from conditional_detr.images.array_postprocessing import postprocess_arrays
from conditional_detr.images.array_preprocessing import collate_arrays
from conditional_detr.images.array_preprocessing import prepare_array as prepare

__all__ = ["prepare", "run"]


def run(model: Any, images: Sequence[np.ndarray], sizes_hw: np.ndarray, top_k: int) -> list[dict[str, np.ndarray]] | None:
    """Run the model on prepared images of one size. Returns the records of `postprocess`; None if scores are not finite."""
    logits, boxes = model(*collate_arrays(images, model.preprocessor))
    if not np.isfinite(logits).all():
        return None
    return postprocess_arrays(logits, boxes, sizes_hw, top_k, model.config.classification)
