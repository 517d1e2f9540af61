"""The options of `train`: from here follow its signature in Python, the command line and the guide's table.

A field says an option's name, type, default, help and check, and is written nowhere else.
"""

from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo

from conditional_detr.config.recipes import RECIPES, RecipeOptions
from conditional_detr.config.run import RunOptions, RunPaths
from conditional_detr.config.schema import Settings

MAY_DIFFER = ("epochs", "minutes", "device", "workers", "threads")  # when a run goes on
MAY_DIFFER_TEXT = f"{', '.join(f'--{name}' for name in MAY_DIFFER[:-1])} and --{MAY_DIFFER[-1]}"
BEGIN, END = "<!-- begin options -->", "<!-- end options -->"


class TrainOptions(RunOptions, RecipeOptions, RunPaths):
    """What somebody asks of `train`. Only fields that were given count (`model_fields_set`): the recipe, the model, the data
    and the machine decide the others.
    """

    resume: bool = Field(
        False,
        description=f"Continue the run in --output. Only {MAY_DIFFER_TEXT} may differ.",
    )
    recipe_overrides: dict[str, Any] = Field(default_factory=dict, description="Fields of `RecipeConfig`.")
    quiet: bool = Field(False, description="Print nothing.")


class CommandOptions(Settings):
    """Options that only the command line has."""

    config: Path | None = Field(
        None, description="TOML file with any of these options; a run's own config.toml repeats the run."
    )
    set: list[str] = Field(
        default_factory=list, description="Any other setting, as in model.num_queries=50 or weight_decay=0.01; may be repeated."
    )


PYTHON_ONLY = frozenset({"model_overrides", "recipe_overrides", "quiet"})


class Option(NamedTuple):
    """An option as people see it.

    Attributes
    ----------
    name : as in Python
    kind : type of its value; choices are texts, so that a wrong one gets our message
    default : None where it is not a constant
    help : a few sentences
    default_text : the default in words, or ""
    """

    name: str
    kind: Any
    default: Any
    help: str
    default_text: str


def command_line_options() -> list[Option]:
    """Those of `cdetr train`."""
    fields = {name: field for name, field in TrainOptions.model_fields.items() if name not in PYTHON_ONLY}
    return [_option(name, field) for name, field in (fields | CommandOptions.model_fields).items()]


def python_signature() -> Signature:
    """That of `train`: data, model and output may be given by position."""
    kinds = dict.fromkeys(RunPaths.model_fields, Parameter.POSITIONAL_OR_KEYWORD)
    parameters = []
    for name, field in TrainOptions.model_fields.items():
        option, kind = _option(name, field), kinds.get(name, Parameter.KEYWORD_ONLY)
        default = Parameter.empty if field.is_required() else option.default
        annotation = str | Path if name in RunPaths.model_fields else option.kind
        parameters.append(Parameter(name, kind, default=default, annotation=annotation))
    return Signature(parameters)


def option_table() -> str:
    """The options of `cdetr train` as a table in Markdown."""
    rows = ["| option | | default |", "|---|---|---|"]
    for option in command_line_options():
        name = option.name.replace("_", "-")
        names = f"`--{name}`, `--no-{name}`" if option.default is True else f"`--{name}`"
        rows.append(f"| {names} | {option.help} | {option.default_text} |")
    return "\n".join(rows)


def with_option_table(document: str) -> str:
    """A document with the table between its two marks as it should be."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{option_table()}\n\n{END}{after}"


def documented(docstring: str) -> str:
    """A docstring with the options of `train` in place of {options}."""
    options = [_option(name, field) for name, field in TrainOptions.model_fields.items()]
    lines = [f"{o.name} : {o.help}" + (f" Default: {o.default_text}." if o.default_text else "") for o in options]
    return docstring.replace("{options}", "\n    ".join(lines))


def _option(name: str, field: FieldInfo) -> Option:
    kind: Any = str if get_origin(field.annotation) is Literal else field.annotation
    text = field.description or ""
    if decided := _decided_by(name, field):
        return Option(name, kind | None, None, text, decided)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    says_nothing = default is None or default is False or default in ([], {})
    return Option(name, kind, default, text, "" if says_nothing else "true" if default is True else str(default))


def _decided_by(name: str, field: FieldInfo) -> str:
    """What gives an option its value where nobody does; "" for a constant."""
    if name in RecipeOptions.model_fields:
        values = ", ".join(f"{recipe} {getattr(settings, name):g}" for recipe, settings in RECIPES.items())
        return f"from the recipe: {values}"
    extra = field.json_schema_extra
    return str(extra.get("default", "")) if isinstance(extra, dict) else ""


if __name__ == "__main__":  # python -m conditional_detr.config.options docs/guide.md
    import sys

    for name in sys.argv[1:]:
        Path(name).write_text(with_option_table(Path(name).read_text(encoding="utf-8")), encoding="utf-8")
