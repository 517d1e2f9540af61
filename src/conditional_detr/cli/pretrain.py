"""`cdetr pretrain`."""

from pathlib import Path
from typing import Annotated, Any

from conditional_detr.cli.parameters import Device, Threads, option
from conditional_detr.errors import ConfigError


def pretrain(
    *,
    data: Annotated[
        str | None, option("Data", "Folder of images, which is searched with its subfolders. No labels are needed.", "DIR")
    ] = None,
    model: Annotated[
        str | None, option("Model", "Model name, such as up-detr-tiny or conditional-detr-tiny.", "NAME", "up-detr-tiny")
    ] = None,
    imgsz: Annotated[
        int | None,
        option(
            "Model", "Largest length of the shorter side after resizing, px.", "PX", "480; tiny models: their own image size"
        ),
    ] = None,
    patches: Annotated[
        int | None, option("Model", "Number of patches per image. The queries are divided among them.", "N", "10")
    ] = None,
    batch: Annotated[int | None, option("Training", "Batch size, over all processes.", "N", "256; tiny models: 8")] = None,
    lr: Annotated[float | None, option("Training", "Learning rate.", "RATE", "0.0001; tiny models: 0.0004")] = None,
    seed: Annotated[int | None, option("Training", "Random seed for weights, data order and patches.", "N", "42")] = None,
    epochs: Annotated[int | None, option("Schedule", "Number of passes over the images.", "N", "60")] = None,
    minutes: Annotated[
        float | None, option("Schedule", "Length of the run in minutes, instead of in epochs.", "MINUTES", "off")
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int | None, option("Hardware", "Number of processes that load images.", "N", "(CPU cores - 2) / 2")
    ] = None,
    threads: Threads = 0,
    output: Annotated[
        str, option("Output", "Run folder. It must be new or empty, unless a run is resumed.", "DIR")
    ] = "runs/pretrain",
    resume: Annotated[bool, option("Output", "Continue the run in the output folder.", default="off")] = False,
) -> None:
    """Pre-train a detector on images without labels (UP-DETR): it learns to find random patches of an image.

    The run folder is a model for `train --model`.
    """
    from conditional_detr.pretraining.pretrain import pretrain as run_pretraining
    from conditional_detr.storage.run_files import CONFIG
    from conditional_detr.training.artifacts.run_folder import RunFolder
    from conditional_detr.training.setup.config_file import training_options

    if epochs is not None and minutes is not None:
        raise ConfigError("a run ends after a number of epochs or of minutes: give --epochs or --minutes, not both")
    values: dict[str, Any] = {
        "data": data, "model": model, "imgsz": imgsz, "patches": patches, "batch": batch, "lr": lr, "seed": seed,
        "epochs": epochs, "minutes": minutes, "device": None if device == "auto" else device, "workers": workers,
        "threads": threads or None, "output": output,
    }  # fmt: skip
    given = {key: value for key, value in values.items() if value is not None}
    if resume and RunFolder(Path(output)).has_begun:
        chosen = given.pop("patches", None)
        given = training_options(Path(output) / CONFIG, [], given)
        given |= {} if chosen is None else {"patches": chosen}
    if "data" not in given:
        raise ConfigError(
            "pretrain needs --data: a folder of images" + (f". {output} contains no run to resume" if resume else "")
        )
    run_pretraining(**given, resume=resume)
