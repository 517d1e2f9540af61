"""`cdetr train`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from conditional_detr.errors import ConfigError


def train(
    *,
    data: str | None = None,
    model: str | None = None,
    output: str | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    lr: float | None = None,
    imgsz: int | None = None,
    recipe: str | None = None,
    device: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    seed: int | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    patience: int | None = None,
    amp: str | None = None,
    freeze: int | None = None,
    pretrained_backbone: bool | None = None,
    strict: Annotated[bool | None, Parameter(negative="")] = None,
    max_bad: float | None = None,
    config: Path | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False, negative="")] = None,
) -> None:
    """Train a detector on a data set with the splits train and valid.

    Parameters
    ----------
    data
        COCO, YOLO, Pascal VOC or imagefolder.
    model
        A model name (default conditional-detr-tiny), or a trained model to go on from: run, checkpoint or
        Hugging Face folder, .pth, Hub id.
    output
        Run folder, new or empty. Default runs/train.
    epochs
        Times that every image is seen.
    minutes
        Instead of --epochs: how long the run may take, with its evaluations and its report.
    batch
        Images an optimisation step, over all processes.
    lr
        Learning rate; the backbone's moves in proportion.
    imgsz
        Length of the shorter side after resizing, px.
    recipe
        paper or fast.
    device
        auto, cpu, cuda, cuda:1, mps.
    workers
        Processes that load images.
    threads
        Processor threads; 0 = as many as there are.
    seed
        Of weights, order and augmentation.
    resume
        Go on with the run in --output.
    patience
        Stop after so many epochs without a better AP; 0 = never.
    amp
        Precision of matrix products: auto, bf16, off.
    freeze
        Stages of the backbone that stay as they are, the first ones.
    pretrained_backbone
        Start from ImageNet weights.
    strict
        Stop at whatever is wrong with the data, instead of leaving it out and saying so.
    max_bad
        Share of a split's images that may be unusable; 0.25 by default.
    config
        TOML file with any of these and of a run's config.toml.
    set_
        One setting, as in model.num_queries=50 or weight_decay=0.01; may be repeated.
    """
    from conditional_detr.training.artifacts.run_folder import RunFolder
    from conditional_detr.training.setup.options import training_options
    from conditional_detr.training.trainer import train as run_training

    if epochs is not None and minutes is not None:
        raise ConfigError("a run ends after so many epochs or after so many minutes: give one of the two")
    given = {
        "data": data, "model": model, "output": output, "epochs": epochs, "minutes": minutes, "batch": batch, "lr": lr,
        "imgsz": imgsz, "recipe": recipe, "device": device, "workers": workers, "threads": threads, "seed": seed,
        "patience": patience, "amp": amp, "freeze": freeze, "pretrained_backbone": pretrained_backbone, "strict": strict,
        "max_bad": max_bad,
    }  # fmt: skip
    own = Path(output or "runs/train")
    if resume and config is None and RunFolder(own).has_begun:
        config = own / "config.toml"  # a run goes on as it began; what is typed is compared with it
    values = training_options(config, set_ or [], {key: value for key, value in given.items() if value is not None})
    if "data" not in values:
        raise ConfigError("train needs --data: the folder of a data set")
    run_training(**values, resume=resume)
