"""`cdetr train`."""

from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter as Shown

from conditional_detr.config.options import Option, TrainOptions, command_line_options
from conditional_detr.errors import ConfigError


def train(**given: Any) -> None:
    """Train a detector on a data set with the splits train and valid."""
    from conditional_detr.storage.run_files import CONFIG
    from conditional_detr.training.artifacts.run_folder import RunFolder
    from conditional_detr.training.setup.config_file import training_options
    from conditional_detr.training.trainer import train as run_training

    if "epochs" in given and "minutes" in given:
        raise ConfigError("a run ends after so many epochs or after so many minutes: give one of the two")
    config, assignments, resume = given.pop("config", None), given.pop("set", []), given.pop("resume", False)
    own = Path(given.get("output", TrainOptions.model_fields["output"].default))
    if resume and config is None and RunFolder(own).has_begun:
        config = own / CONFIG  # a run goes on as it began; what is typed is compared with it
    values = training_options(config, assignments, given)
    if "data" not in values:
        raise ConfigError("train needs --data: the folder of a data set")
    run_training(**values, resume=resume)


def _parameter(option: Option) -> Parameter:
    """An option as the parser knows it. The parser hands over only what was typed."""
    text = f"{option.help} Default: {option.default_text}." if option.default is None and option.default_text else option.help
    shown = Shown(
        help=text,
        negative="" if option.default in (False, []) else None,  # --no-NAME only where NAME is the default
        show_default=option.default is not None and bool(option.default_text),
        consume_multiple=False,
    )
    kind = option.kind | None if option.name == "data" else option.kind  # with --resume it need not be given
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=option.default, annotation=Annotated[kind, shown])


train.__signature__ = Signature([_parameter(option) for option in command_line_options()])  # type: ignore[attr-defined]
