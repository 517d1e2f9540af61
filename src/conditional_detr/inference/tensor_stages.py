"""Prepare images for a model that PyTorch runs, and postprocess its output."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.images.postprocessing import postprocess
from conditional_detr.images.preprocessing import Preprocessor


def prepare(rgb: np.ndarray, config: PreprocessorConfig) -> Tensor:
    """Resize and normalise an image: uint8 [H, W, 3] → float32 [3, h, w]."""
    return Preprocessor(config)(torch.from_numpy(rgb).permute(2, 0, 1))


inference_mode = torch.inference_mode  # context manager for running the model and postprocessing its output
OPTIONS = {"aux": False}  # keyword arguments of the model: only the last decoder layer


def inputs_of(model: Any, images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return batch and padding mask for prepared images of one size, on the device of the model."""
    batch, padding_mask = Preprocessor(model.preprocessor).collate(images)
    batch = batch.to(model.device, memory_format=model.memory_format)
    return batch, None if padding_mask is None else padding_mask.to(model.device)


def records_of(model: Any, output: Any, sizes_hw: np.ndarray, top_k: int) -> list[dict[str, np.ndarray]] | None:
    """Return the detections of each image, as in `postprocess`. None if scores are not finite."""
    if not torch.isfinite(output.pred_logits).all():
        return None
    results = postprocess(output, torch.from_numpy(sizes_hw).to(model.device), top_k, model.config.classification)
    return [{key: value.cpu().numpy() for key, value in result.items()} for result in results]
