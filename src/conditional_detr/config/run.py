"""All settings of a training run."""

from typing import Any, Literal

from pydantic import Field

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import Settings


class RunConfig(Settings):
    """All that a run was told and resolved to: `config.toml` of a run folder."""

    data: str
    model: str
    output: str
    recipe: Literal["paper", "fast"] = "paper"
    imgsz: int = Field(800, ge=16, le=8192)
    device: str = "auto"
    amp: Literal["auto", "bf16", "off"] = "auto"
    workers: int = Field(0, ge=0, le=256)
    threads: int = Field(0, ge=0, le=4096, description="processor threads; 0 = as many as the process may use")
    seed: int = Field(42, ge=0, lt=2**32)
    pretrained_backbone: bool = True
    strict: bool = Field(False, description="stop at whatever is wrong with the data instead of leaving it out")
    max_bad: float = Field(0.25, ge=0, le=1, description="share of a split's images that may be unusable")
    model_overrides: dict[str, Any] = Field(default_factory=dict, description="fields of the model's configuration")
    training: RecipeConfig = RecipeConfig()
