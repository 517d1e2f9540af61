"""Parameters that several verbs share: their help, their group and the word for their value."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from conditional_detr.config.options import GROUPS

GROUP = {name: Group(name, sort_key=place) for place, name in enumerate(GROUPS)}
FORMATS = "COCO, YOLO, Pascal VOC or Hugging Face imagefolder"
STORED_THRESHOLDS = "the thresholds stored in the model, one per class; 0.3 if it has none"  # the default of --conf


def argument(text: str, name: str | None = None) -> Parameter:
    """A required argument that is given by position."""
    return Parameter(name=name, help=text, required=True)


def option(group: str, text: str, metavar: str | None = None, default: str | None = None) -> Parameter:
    """An option in one of the groups. `default` is shown where the default is no constant."""
    return Parameter(help=text, group=GROUP[group], metavar=metavar, show_default=default or True, negative="")


Source = Annotated[
    str,
    argument(
        "Trained model: run folder, checkpoint folder, export folder, Hugging Face folder, .pth file, name of a bundled model, "
        "or Hub id."
    ),
]
TorchSource = Annotated[
    str,
    argument(
        "Trained model: run folder, checkpoint folder, Hugging Face folder, .pth file, name of a bundled model, or Hub id."
    ),
]
Data = Annotated[
    str, Parameter(help=f"Data set folder: {FORMATS}.", group=GROUP["Data"], metavar="DIR", required=True, show_default=False)
]
DataFolder = Annotated[Path, argument(f"Data set folder: {FORMATS}.")]
Split = Annotated[str, option("Data", "Split: train, valid or test.", "NAME")]
Batch = Annotated[int, option("Hardware", "Batch size. Does not change the results.", "N")]
Device = Annotated[str, option("Hardware", "Device: auto, cpu, cuda, cuda:1 or mps.", "NAME")]
Threads = Annotated[int, option("Hardware", "Number of CPU threads for the model. 0: as many as are available.", "N")]
Tile = Annotated[
    int | None,
    option(
        "Model",
        "Cut larger images into overlapping tiles with this side, px of the image. Objects are searched in the whole image and "
        "in each tile. 0: whole images only.",
        "N",
        "as the model was trained",
    ),
]
Overlap = Annotated[
    float | None,
    option("Model", "Overlap of neighbouring tiles, as a share of their side.", "SHARE", "the model's, usually 0.2"),
]
Output = Annotated[Path, option("Output", "Output folder. Created if needed; files of the same name are replaced.", "DIR")]
