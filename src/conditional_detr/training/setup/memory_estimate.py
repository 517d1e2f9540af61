"""Estimate the memory of a training step before running it."""

import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from conditional_detr.config.schema import ModelConfig
from conditional_detr.factory.build import DetectionModel, preprocessing_for


def activation_bytes(config: ModelConfig, height: int, width: int) -> int:
    """Bytes that a forward pass of one image stores for the backward pass. The model runs on the meta device only.

    Parameters
    ----------
    config : architecture of the model
    height, width : size of the image, px
    """
    kept: dict[int, int] = {}  # by storage, because views share one

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return value

    with torch.device("meta"):
        model = DetectionModel(config, preprocessing_for(config, height)).train()
        with saved_tensors_hooks(note, lambda value: value):
            output = model(torch.zeros(1, 3, height, width))  # keeps the storages alive, so that no address is reused
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    assert output.pred_boxes.is_meta
    return sum(size for storage, size in kept.items() if storage not in own)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, bytes."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    available: int = psutil.virtual_memory().available
    return available
