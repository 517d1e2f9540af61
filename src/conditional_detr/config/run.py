"""All settings of a training run."""

from typing import Any, Literal

from pydantic import Field, field_validator

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import Settings

TRACKERS = ("tensorboard", "mlflow", "wandb", "trackio")


def trackers_of(log: str) -> list[str]:
    """The trackers in the value of the option `log`.

    >>> trackers_of("tensorboard, mlflow")
    ['tensorboard', 'mlflow']
    """
    return [name for part in log.split(",") if (name := part.strip())]


class RunPaths(Settings):
    """The model to train, its data and the run folder."""

    data: str = Field(
        description="Data set folder with the splits train and valid: COCO, YOLO, Pascal VOC or Hugging Face imagefolder.",
        json_schema_extra={
            "group": "Data",
            "metavar": "DIR",
        },
    )
    model: str = Field(
        "conditional-detr-tiny",
        description="Model name, such as conditional-detr-tiny, conditional-detr-r50 or detr-r50. Or a trained model to "
        "fine-tune: run folder, checkpoint folder, Hugging Face folder, .pth file or Hub id. If the classes differ, only the "
        "class head is initialised anew.",
        json_schema_extra={"group": "Model", "metavar": "SOURCE"},
    )
    output: str = Field(
        "runs/train",
        description="Run folder. It must be new or empty, unless a run is resumed.",
        json_schema_extra={"group": "Output", "metavar": "DIR"},
    )


class RunOptions(Settings):
    """Options of a run that do not belong to a recipe.

    `json_schema_extra` says how an option is shown: its group, the word for its value, and its default in words if that is no
    constant.
    """

    imgsz: int = Field(
        800,
        ge=16,
        le=8192,
        description="Length of the shorter side after resizing, px. The aspect ratio is kept; the longer side is at most "
        "1333/800 of this length.",
        json_schema_extra={
            "group": "Model",
            "metavar": "PX",
            "default": "recipe fast: chosen from the data; paper: the input size of the model",
        },
    )
    recipe: Literal["paper", "fast"] = Field(
        "paper",
        description="Training recipe. paper: the settings of the paper. fast: for small data sets and small models.",
        json_schema_extra={"group": "Training", "metavar": "NAME", "default": "fast for tiny models, else paper"},
    )
    device: str = Field(
        "auto",
        description="Device: auto, cpu, cuda, cuda:1 or mps.",
        json_schema_extra={"group": "Hardware", "metavar": "NAME"},
    )
    amp: Literal["auto", "bf16", "off"] = Field(
        "auto",
        description="Mixed precision: auto, bf16 or off. auto uses bfloat16 if it is measured to be faster on this machine. "
        "Matching and losses always use float32.",
        json_schema_extra={"group": "Hardware", "metavar": "NAME"},
    )
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="Number of processes that load images.",
        json_schema_extra={"group": "Hardware", "metavar": "N", "default": "(CPU cores - 2) / 2"},
    )
    threads: int = Field(
        0,
        ge=0,
        le=4096,
        description="Number of CPU threads. 0: as many as are available.",
        json_schema_extra={"group": "Hardware", "metavar": "N"},
    )
    seed: int = Field(
        42,
        ge=0,
        lt=2**32,
        description="Random seed for weights, data order and augmentation.",
        json_schema_extra={"group": "Training", "metavar": "N"},
    )
    pretrained_backbone: bool = Field(
        True,
        description="Start a new model from pretrained weights: bundled detector weights if they fit it (recipe fast), else "
        "ImageNet weights of the backbone.",
        json_schema_extra={"group": "Model"},
    )
    strict: bool = Field(
        False,
        description="Stop at any problem in the data set instead of leaving out the image or annotation.",
        json_schema_extra={"group": "Data"},
    )
    max_bad: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Largest fraction of a split's images that may be unreadable or missing. Training stops if there are more.",
        json_schema_extra={"group": "Data", "metavar": "FRACTION"},
    )
    log: str = Field(
        "",
        description=f"Experiment trackers, separated by commas: {', '.join(TRACKERS)}. They record metrics, settings and "
        "sample images of each epoch. They write to the run folder, unless their own variables name a server.",
        json_schema_extra={"group": "Output", "metavar": "NAMES", "default": "none"},
    )
    model_overrides: dict[str, Any] = Field(default_factory=dict, description="Fields of `ModelConfig`.")

    @field_validator("log")
    @classmethod
    def _known_trackers(cls, log: str) -> str:
        if any(name not in TRACKERS for name in trackers_of(log)):
            raise ValueError(f"names out of {', '.join(TRACKERS)}, separated by commas")
        return ",".join(trackers_of(log))


class RunConfig(RunOptions, RunPaths):
    """All settings of a run after they are resolved: `config.toml` of a run folder."""

    training: RecipeConfig = RecipeConfig()
