"""The options of `train`. Its signature in Python, its command line and the table in the reference are made from them.

The name, type, default, help and check of an option are written here (or in `run` and `recipes`) and nowhere else.
"""

from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo

from conditional_detr.config.presets import PAPERS
from conditional_detr.config.recipes import RECIPES, RecipeOptions
from conditional_detr.config.run import RunOptions, RunPaths
from conditional_detr.config.schema import Settings

MAY_DIFFER = ("epochs", "minutes", "device", "workers", "threads")  # when a run goes on
MAY_DIFFER_TEXT = f"{', '.join(MAY_DIFFER[:-1])} and {MAY_DIFFER[-1]}"
GROUPS = (
    "Data",
    "Model",
    "Training",
    "Schedule",
    "Access",
    "Limits",
    "Hardware",
    "Output",
)  # of options, in the order of `--help`


class TrainOptions(RunOptions, RecipeOptions, RunPaths):
    """The options that a caller gives to `train`.

    Only fields that were given count (`model_fields_set`). The others follow from the recipe, the model, the data and the
    machine.
    """

    resume: bool = Field(
        False,
        description=f"Continue the run in the output folder. Only {MAY_DIFFER_TEXT} may differ.",
        json_schema_extra={"group": "Output"},
    )
    recipe_overrides: dict[str, Any] = Field(default_factory=dict, description="Fields of `RecipeConfig`.")
    quiet: bool = Field(False, description="Print nothing.")


class CommandOptions(Settings):
    """Options that only the command line has."""

    config: Path | None = Field(
        None,
        description="TOML file with any of these options. The config.toml of a run repeats that run.",
        json_schema_extra={"group": "Training", "metavar": "FILE", "default": "none"},
    )
    folds: int = Field(
        0,
        description="Cross-validation: train this number of models, each on all images but those of its fold, and list likely "
        "label errors. All splits but test are merged. --epochs and --minutes are those of each fold. 0: one run with the "
        "splits of the data set.",
        json_schema_extra={"group": "Training", "metavar": "K", "default": "off"},
    )
    set: list[str] = Field(
        default_factory=list,
        description="Any other setting, such as model.num_queries=50 or weight_decay=0.01. May be repeated.",
        json_schema_extra={"group": "Training", "metavar": "KEY=VALUE", "default": "none"},
    )


PYTHON_ONLY = frozenset({"model_overrides", "recipe_overrides", "quiet"})


class Option(NamedTuple):
    """How an option is shown.

    Attributes
    ----------
    name : name in Python
    kind : type of its value; a choice is a string, so that a wrong one gets our message
    default : None if it is no constant
    help : one or two sentences
    default_text : the default in words
    group : one of `GROUPS`, or ""
    metavar : the word for its value in `--help`, or None
    """

    name: str
    kind: Any
    default: Any
    help: str
    default_text: str
    group: str
    metavar: str | None


def command_line_options() -> list[Option]:
    """The options of `cdetr train`."""
    fields = {name: field for name, field in TrainOptions.model_fields.items() if name not in PYTHON_ONLY}
    return [_option(name, field) for name, field in (fields | CommandOptions.model_fields).items()]


def python_signature() -> Signature:
    """The signature of `train`. Data, model and output may be given by position."""
    kinds = dict.fromkeys(RunPaths.model_fields, Parameter.POSITIONAL_OR_KEYWORD)
    parameters = []
    for name, field in TrainOptions.model_fields.items():
        option, kind = _option(name, field), kinds.get(name, Parameter.KEYWORD_ONLY)
        default = Parameter.empty if field.is_required() else option.default
        annotation = str | Path if name in RunPaths.model_fields else option.kind
        parameters.append(Parameter(name, kind, default=default, annotation=annotation))
    return Signature(parameters)


def documented(docstring: str) -> str:
    """A docstring with the options of `train` in place of {options}."""
    options = [_option(name, field) for name, field in TrainOptions.model_fields.items()]
    lines = [
        f"{o.name} : {o.help} {'Required' if o.default_text == 'required' else f'Default: {o.default_text}'}." for o in options
    ]
    return docstring.replace("{options}", "\n    ".join(lines))


def _option(name: str, field: FieldInfo) -> Option:
    kind: Any = str if get_origin(field.annotation) is Literal else field.annotation
    shown = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    text = _default_in_words(name, shown)
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if text and default != []:
        kind, default = kind | None, None
    return Option(
        name=name,
        kind=kind,
        default=default,
        help=field.description or "",
        default_text="required" if field.is_required() else text or _constant_in_words(default),
        group=str(shown.get("group", "")),
        metavar=str(shown["metavar"]) if "metavar" in shown else None,
    )


def _default_in_words(name: str, shown: dict[str, Any]) -> str:
    """Where a default that is no constant comes from; "" for a constant."""
    if name in RecipeOptions.model_fields:
        defaults = [f"{recipe} {getattr(values, name):g}" for recipe, values in RECIPES.items()]
        usual = getattr(RECIPES["paper"], name)
        others = [f"{models} {v[name]:g}" for models, v in PAPERS.items() if v.get(name, usual) != usual]
        defaults[0] += f" ({', '.join(others)})" if others else ""
        return "from the recipe: " + ", ".join(defaults)
    return str(shown.get("default", ""))


def _constant_in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, [], {}) else str(value)
