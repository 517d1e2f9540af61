"""`cdetr pretrain`."""

from pathlib import Path
from typing import Any

from conditional_detr.cli.option_parameters import signature_of
from conditional_detr.config.options import Option, command_line_options
from conditional_detr.errors import ConfigError

OUTPUT = "runs/pretrain"
# The options of `train` that pre-training has too, with the texts (help, default) that differ.
TEXTS: dict[str, dict[str, Any]] = {
    "data": {"help": "Folder of images, which is searched with its subfolders. No labels are needed."},
    "model": {"help": "Model name.", "default": "up-detr-tiny", "default_text": "up-detr-tiny", "metavar": "NAME"},
    "output": {"default": OUTPUT, "default_text": OUTPUT},
    "epochs": {"default_text": "60"},
    "minutes": {"default_text": "off"},
    "batch": {"default_text": "256; tiny models: 8"},
    "lr": {"help": "Learning rate.", "default_text": "0.0001; tiny models: 0.0004"},
    "imgsz": {
        "help": "Largest length of the shorter side after resizing, px.",
        "default_text": "480; tiny models: their own image size",
    },
    "pretrained_backbone": {"help": "Start from the ImageNet weights of the backbone, which are not changed."},
    "device": {},
    "amp": {},
    "workers": {},
    "threads": {},
    "seed": {"help": "Random seed for weights, data order and patches."},
    "strict": {"help": "Stop at any image that cannot be used instead of leaving it out."},
    "max_bad": {"help": "Largest fraction of the images that may be unreadable. Pre-training stops if there are more."},
    "log": {},
    "resume": {},
    "config": {},
    "set": {},
}
PATCHES = Option(
    "patches", int | None, None, "Number of patches per image. The queries are divided among them.", "10", "Model", "N"
)


def pretrain(**given: Any) -> None:
    """Pre-train a detector on images without labels (UP-DETR): it learns to find random patches of an image.

    The run folder is a model for `train --model`.
    """
    from conditional_detr.pretraining.pretrain import pretrain as run_pretraining
    from conditional_detr.storage.run_files import CONFIG
    from conditional_detr.training.artifacts.run_folder import RunFolder
    from conditional_detr.training.setup.config_file import training_options

    if "epochs" in given and "minutes" in given:
        raise ConfigError("a run ends after a number of epochs or of minutes: give --epochs or --minutes, not both")
    config, assignments, resume = given.pop("config", None), given.pop("set", []), given.pop("resume", False)
    patches, output = given.pop("patches", None), Path(given.get("output", OUTPUT))
    if resume and config is None and RunFolder(output).has_begun:
        config = output / CONFIG  # a run continues with its own settings; what is typed is compared with them
    values = training_options(config, assignments, given)
    if resume and config == output / CONFIG and "patches" not in values["model_overrides"]:
        raise ConfigError(f"{output} is a run of `cdetr train`, not of `cdetr pretrain`")
    if "data" not in values:
        raise ConfigError(
            "pretrain needs --data: a folder of images" + (f". {output} contains no run to resume" if resume else "")
        )
    run_pretraining(**values, patches=patches, resume=resume)


def _options() -> list[Option]:
    shared = [option._replace(**TEXTS[option.name]) for option in command_line_options() if option.name in TEXTS]
    return [*shared, PATCHES]


pretrain.__signature__ = signature_of(_options())  # type: ignore[attr-defined]
