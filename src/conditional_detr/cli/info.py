"""`cdetr info`."""

from conditional_detr.cli.parameters import Source
from conditional_detr.cli.printing import print_facts


def info(source: Source, /) -> None:
    """Describe a model: classes, input size, parameters, FLOPs and origin."""
    from conditional_detr.inference.model_info import describe

    print_facts({name: str(value) for name, value in describe(source).items()})
