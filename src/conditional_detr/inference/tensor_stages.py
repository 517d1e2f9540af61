"""Prepare images for a model that PyTorch runs, and read its output."""

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


@torch.inference_mode()
def run(model: Any, images: Sequence[Tensor], sizes_hw: np.ndarray, top_k: int) -> list[dict[str, np.ndarray]] | None:
    """Run the model on prepared images of one size. Returns the records of `postprocess`; None if scores are not finite."""
    batch, padding_mask = Preprocessor(model.preprocessor).collate(images)
    batch = batch.to(model.device, memory_format=model.memory_format)
    output = model(batch, None if padding_mask is None else padding_mask.to(model.device), aux=False)
    if not torch.isfinite(output.pred_logits).all():
        return None
    sizes = torch.from_numpy(sizes_hw).to(model.device)
    results = postprocess(output, sizes, top_k, model.config.classification)
    return [{key: value.cpu().numpy() for key, value in result.items()} for result in results]
