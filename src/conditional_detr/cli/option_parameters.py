"""The parameters of `cdetr train` and `cdetr pretrain`, made from the options of a run."""

from collections.abc import Iterable
from inspect import Parameter, Signature
from typing import Annotated

from cyclopts import Parameter as Shown

from conditional_detr.cli.parameters import GROUP
from conditional_detr.config.options import Option


def signature_of(options: Iterable[Option]) -> Signature:
    """The signature of a verb that takes these options. The parser hands over only those that were typed."""
    return Signature([_parameter(option) for option in options])


def _parameter(option: Option) -> Parameter:
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
