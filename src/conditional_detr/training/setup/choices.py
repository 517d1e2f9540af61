"""Settings chosen by rules: what a rule sees and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from conditional_detr.config.parts import with_overrides
from conditional_detr.config.presets import PRESETS
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.data.index import SplitIndex
from conditional_detr.training.setup.invariance import EdgeProfiles, edge_profiles
from conditional_detr.training.setup.step_speed import StepSpeed, measured_speed
from conditional_detr.weights.discovery import read_checkpoint
from conditional_detr.weights.recognise import find_checkpoint


class Choice(NamedTuple):
    """A chosen setting: its name as in --set, its value and the reason."""

    setting: str
    value: Any
    reason: str

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, int | float) else self.value
        return f"{self.setting} = {str(self.value).lower() if isinstance(self.value, bool) else value}: {self.reason}"


@dataclass(frozen=True)
class Sources:
    """The training images and the model source of a run. Results that several rules need are cached."""

    index: SplitIndex
    model_source: str
    speed: Callable[..., StepSpeed] = measured_speed

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of their class indices."""
        return [category.name for category in self.index.categories]

    @cached_property
    def edges(self) -> EdgeProfiles:
        """Edge strengths in sampled images."""
        return edge_profiles(self.index)

    @cached_property
    def trained(self) -> ModelConfig | None:
        """Configuration of the trained model that the run fine-tunes; None for a model name."""
        path = find_checkpoint(self.model_source)
        return None if path is None else read_checkpoint(path).config


@dataclass(frozen=True)
class Context:
    """Input of a rule: the settings with all choices so far, the data and the model."""

    config: RunConfig
    sources: Sources

    @property
    def model(self) -> ModelConfig | None:
        """Configuration of the run's model."""
        return model_of(self.config) if self.is_new else self.sources.trained

    @property
    def is_new(self) -> bool:
        """Whether the model is built from a model name. A trained model keeps its architecture and its image size."""
        return self.config.model in PRESETS


Rule = Callable[[Context], Choice | None]


def of_new_model(rule: Rule) -> Rule:
    """Restrict a rule to new models, built from a model name."""
    return lambda context: rule(context) if context.is_new else None


def model_of(config: RunConfig) -> ModelConfig:
    """Configuration of the new model of a run."""
    return with_overrides(PRESETS[config.model].model, config.model_overrides, "train")
