"""Files of tensors, read without running anything that lies in them."""

import argparse
import os
import pathlib
import pickle
import re
import warnings
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import safe_globals

from conditional_detr.errors import CheckpointError

WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"
ARGUMENTS: list[Any] = [argparse.Namespace, pathlib.PosixPath]  # what a training script's `args` are made of; both are inert


def read_weights(file: pathlib.Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file."""
    if not file.exists():
        raise CheckpointError(f"{file} is missing: the checkpoint is not whole")
    if not os.access(file, os.R_OK):
        raise CheckpointError(f"{file} cannot be opened: Permission denied")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {str(error)[:200]}") from None


def load_tensors(file: pathlib.Path) -> dict[str, Any]:
    """What `torch.save` wrote, if it is tensors, plain values and the `args` of a training script under names.

    Raises
    ------
    CheckpointError : it holds anything else, which is not run, or it is damaged
    """
    try:
        with safe_globals(ARGUMENTS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its advice is to trust the file
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"{file} cannot be opened: {error.strerror or error}") from None
    except Exception as error:  # a damaged file makes its reader raise whatever it meets
        if isinstance(error, pickle.UnpicklingError) and (asked := re.search(r"GLOBAL (\S+)", str(error))):
            raise CheckpointError(
                f"{file} holds more than weights: it asks for {asked[1]}, which is not run. Save its state_dict alone"
            ) from None
        raise CheckpointError(
            f"{file} cannot be read as a PyTorch checkpoint: it is damaged, or something else than tensors by name"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold tensors by name; it holds a {type(content).__name__}")
    return content


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights as they are written: on the CPU, each in memory of its own."""
    return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
