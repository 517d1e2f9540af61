"""`cdetr train`."""

from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter as Shown

from conditional_detr.cli.parameters import GROUP
from conditional_detr.config.options import Option, TrainOptions, command_line_options
from conditional_detr.errors import ConfigError


def train(**given: Any) -> None:
    """Train a detector on a data set. Writes checkpoints, metrics and a report to a run folder."""
    from conditional_detr.storage.run_files import CONFIG
    from conditional_detr.training.artifacts.run_folder import RunFolder
    from conditional_detr.training.setup.config_file import training_options
    from conditional_detr.training.trainer import train as run_training

    if "epochs" in given and "minutes" in given:
        raise ConfigError(
            "a run ends after a number of epochs or after a number of minutes: give --epochs or --minutes, not both"
        )
    config, assignments, resume = given.pop("config", None), given.pop("set", []), given.pop("resume", False)
    output = Path(given.get("output", TrainOptions.model_fields["output"].default))
    if resume and config is None and RunFolder(output).has_begun:
        config = output / CONFIG  # a run continues with its own settings; what is typed is compared with them
    values = training_options(config, assignments, given)
    if "data" not in values and resume:
        raise ConfigError(f"{output} contains no run to resume. Give its folder with --output, or --data to start a new run")
    if "data" not in values:
        raise ConfigError("train needs --data: the folder of a data set")
    run_training(**values, resume=resume)


def _parameter(option: Option) -> Parameter:
    """An option for the parser, which hands over only what was typed."""
    unless = " Required, unless --resume or --config is given." if option.name == "data" else ""
    shown = Shown(
        help=option.help + unless,
        group=GROUP[option.group],
        metavar=option.metavar,
        negative="" if option.default in (False, []) else None,  # --no-NAME only where NAME is the default
        show_default=False if unless else option.default_text,
        consume_multiple=False,
    )
    kind = option.kind | None if unless else option.kind
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=option.default, annotation=Annotated[kind, shown])


train.__signature__ = Signature([_parameter(option) for option in command_line_options()])  # type: ignore[attr-defined]
