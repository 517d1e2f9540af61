"""Read files of tensors without running any code that they contain."""

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

ARGUMENTS: list[Any] = [argparse.Namespace, pathlib.PosixPath]  # types in a training script's `args`; both are harmless


def read_weights(file: pathlib.Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file."""
    if not file.exists():
        raise CheckpointError(f"{file} is missing: the checkpoint is incomplete")
    if not os.access(file, os.R_OK):
        raise CheckpointError(f"{file} cannot be opened: Permission denied")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {str(error)[:200]}") from None


def load_tensors(file: pathlib.Path) -> dict[str, Any]:
    """Read a file written by `torch.save`. It must hold a dict of tensors, plain values and the `args` of a training script.

    Raises
    ------
    CheckpointError : the file is damaged, or it holds other objects, which are not loaded because they could run code
    """
    try:
        with safe_globals(ARGUMENTS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it advises to trust the file
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise CheckpointError(f"{file} cannot be opened: {error.strerror or error}") from None
    except Exception as error:  # damaged files raise many kinds of exceptions
        if isinstance(error, pickle.UnpicklingError) and (asked := re.search(r"GLOBAL (\S+)", str(error))):
            raise CheckpointError(
                f"{file} holds more than weights: it refers to {asked[1]}, which could run code. Save only its state_dict"
            ) from None
        raise CheckpointError(
            f"{file} cannot be read as a PyTorch checkpoint: it is damaged, or it does not hold a dict of tensors"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a dict of tensors; it holds a {type(content).__name__}")
    return content


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model as they are saved: on the CPU and contiguous."""
    return {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
