"""All settings of a training run."""

from typing import Any, Literal

from pydantic import Field

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import Settings


class RunPaths(Settings):
    """What is trained, on what, and into which folder."""

    data: str = Field(description="Data set with the splits train and valid: COCO, YOLO, Pascal VOC or imagefolder.")
    model: str = Field(
        "conditional-detr-tiny",
        description="Model name, or a trained model to fine-tune: run, checkpoint or Hugging Face folder, .pth, Hub id. "
        "For other classes only the class head starts anew.",
    )
    output: str = Field("runs/train", description="Run folder, new or empty unless --resume is given.")


class RunOptions(Settings):
    """Options of a run that no recipe has. "default" says in words what decides where the default is no constant."""

    imgsz: int = Field(
        800,
        ge=16,
        le=8192,
        description="Length of the shorter side after resizing, px. The aspect ratio is kept; the longer side is at most "
        "1333/800 of it.",
        json_schema_extra={"default": "what the model is made for"},
    )
    recipe: Literal["paper", "fast"] = Field(
        "paper",
        description="paper: the settings of the paper; fast: for small data and small models.",
        json_schema_extra={"default": "that of the model name"},
    )
    device: str = Field("auto", description="Device: auto, cpu, cuda, cuda:1, mps.")
    amp: Literal["auto", "bf16", "off"] = Field(
        "auto",
        description="Precision of matrix products: auto, bf16, off. auto takes bfloat16 where it is measured to be faster; "
        "matching and losses are always float32.",
    )
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="Number of processes that load images.",
        json_schema_extra={"default": "half of the cores but two"},
    )
    threads: int = Field(0, ge=0, le=4096, description="Number of processor threads; 0 = all that the process may use.")
    seed: int = Field(42, ge=0, lt=2**32, description="Random seed for weights, data order and augmentation.")
    pretrained_backbone: bool = Field(True, description="Start the backbone of a new model from ImageNet weights.")
    strict: bool = Field(False, description="Stop at any fault of the data instead of leaving it out.")
    max_bad: float = Field(0.25, ge=0, le=1, description="Largest share of a split's images that may be unusable.")
    model_overrides: dict[str, Any] = Field(default_factory=dict, description="Fields of `ModelConfig`.")


class RunConfig(RunOptions, RunPaths):
    """All settings of a run after they are resolved: `config.toml` of a run folder."""

    training: RecipeConfig = RecipeConfig()
