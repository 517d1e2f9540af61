"""The content of a checkpoint of any format, and building the model from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.errors import CheckpointError, ConfigError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.backbone.timm_backbone import STRIDES
from conditional_detr.weights.key_mapping import KeyTable


class Checkpoint(NamedTuple):
    """The content of a checkpoint.

    Attributes
    ----------
    kind : the kind of checkpoint, as text for display
    description, file : paths of the file that describes the model and of the file with its weights
    config, preprocessor : configuration of the network and of the preprocessing
    class_names, category_ids : one value per class; None = the class indices
    state : the weights, under the tensor names of the checkpoint
    keys : table that maps the tensor names of this library to those of the checkpoint; None if they are the same
    thresholds, nms_iou : see `DetectionModel`
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
    nms_iou: Any = None

    def build(self) -> DetectionModel:
        """Build the model with these weights, in eval mode.

        Raises
        ------
        CheckpointError : the description is invalid, or the names or shapes of the weights do not match it
        """
        try:
            if not is_as_small(self.config, self.state):
                with torch.device("meta"):  # takes no memory
                    self._check(DetectionModel(self.config, self.preprocessor))
            learned = {"thresholds": self.thresholds, "nms_iou": self.nms_iou}
            model = DetectionModel(self.config, self.preprocessor, self.class_names, self.category_ids, **learned)
            self._check(model)
            state = self.state if self.keys is None else self.keys.from_foreign(self.state, model.state_dict())
            model.load_state_dict(state)
        except CheckpointError:
            raise
        except (ConfigError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise CheckpointError(f"{self.description} describes a model that cannot be built: {error}") from None
        return model.eval()

    def _check(self, model: DetectionModel) -> None:
        ours = model.state_dict()
        expected = ours if self.keys is None else self.keys.to_foreign(ours)
        check_state(self.state, expected, self.file, self.description)


def is_as_small(config: ModelConfig, state: dict[str, Tensor]) -> bool:
    """Whether a model surely needs little more memory than its weights, so that it can be built before they are compared.

    Without memory, on PyTorch's "meta" device, a model is built ten times as slowly.
    """
    per_layer = 2 * config.feedforward_dim + 4 * config.hidden_dim
    rows = config.num_queries + config.num_classes + (config.encoder_layers + config.decoder_layers) * per_layer
    held = sum(value.numel() for value in state.values())
    is_known = config.backbone.split(".")[0] in STRIDES and config.lambda_q != "full"
    return is_known and rows * config.hidden_dim <= held


def check_state(state: dict[str, Tensor], expected: dict[str, Tensor], file: Path, description: Path) -> None:
    """Raise `CheckpointError` if names, shapes or types of the tensors do not match the described model.

    The message lists the first few that differ.
    """
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
            f"{file} must hold the {len(expected)} tensors of the model that {description.name} describes. It holds "
            f"{len(state)}, with these differences: {'; '.join(differ[:3])}{more}"
        )
