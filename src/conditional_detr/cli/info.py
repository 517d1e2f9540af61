"""`cdetr info`."""

from typing import Annotated

from conditional_detr.cli.parameters import argument
from conditional_detr.cli.printing import print_facts

Source = Annotated[
    str,
    argument(
        "Model name, or a trained model: run folder, checkpoint folder, export folder, Hugging Face folder, .pth file or "
        "Hub id."
    ),
]


def info(source: Source, /) -> None:
    """Describe a model: classes, input size, parameters, FLOPs and origin."""
    from conditional_detr.inference.model_info import describe

    print_facts({name: str(value) for name, value in describe(source).items()})
