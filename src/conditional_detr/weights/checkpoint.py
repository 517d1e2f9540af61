"""What was read of a checkpoint of any format, and the model that it makes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.errors import CheckpointError, ConfigError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.weights.key_mapping import KeyTable


class Checkpoint(NamedTuple):
    """A checkpoint as it was read.

    Attributes
    ----------
    kind : what it is, in words
    description, file : where it is said what the model is, and where its weights lie
    config, preprocessor : what the model is made of, and its preprocessing
    class_names, category_ids : an entry a class; None = the classes' numbers
    state : the weights by the names that they have there
    keys : whose names these are; None = ours
    thresholds : a score a class, or None
    """

    kind: str
    description: Path
    file: Path
    config: ModelConfig
    preprocessor: PreprocessorConfig
    class_names: Sequence[Any] | None
    category_ids: Sequence[Any] | None
    state: dict[str, Tensor]
    keys: KeyTable | None = None
    thresholds: Sequence[Any] | None = None

    def build(self) -> DetectionModel:
        """The model with these weights, in eval mode.

        Raises
        ------
        CheckpointError : names or shapes are not those of the model that is described, or there is no such model
        """
        try:
            with torch.device("meta"):
                ours = DetectionModel(self.config, self.preprocessor).state_dict()
            expected = ours if self.keys is None else self.keys.to_foreign(ours)
            check_state(self.state, expected, self.file, self.description)
            model = DetectionModel(self.config, self.preprocessor, self.class_names, self.category_ids, self.thresholds)
            model.load_state_dict(self.state if self.keys is None else self.keys.from_foreign(self.state, ours))
        except CheckpointError:
            raise
        except (ConfigError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise CheckpointError(f"{self.description} describes no model that can be built: {error}") from None
        return model.eval()


def check_state(state: dict[str, Tensor], expected: dict[str, Tensor], file: Path, description: Path) -> None:
    """Names and shapes must be those of the described model; the first few that differ are named."""
    missing = [f"{key} is missing" for key in expected if key not in state]
    surplus = [f"{key} is not expected" for key in sorted(state) if key not in expected]
    shapes = [
        f"{key} is {list(state[key].shape)}, expected {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    kinds = [
        f"{key} is {value.dtype}, {value.layout}, on {value.device.type}, expected plain floating-point numbers"
        for key, value in state.items()
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta
    ]
    if differ := missing + surplus + shapes + kinds:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise CheckpointError(
            f"{file} must hold the {len(expected)} tensors of the model that {description.name} describes; of the {len(state)} "
            f"in it these differ: {'; '.join(differ[:3])}{more}"
        )
