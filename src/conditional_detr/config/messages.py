"""Settings from values; what is wrong with them is said in our words."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from conditional_detr.config.schema import Settings
from conditional_detr.errors import ConfigError, did_you_mean

SettingsType = TypeVar("SettingsType", bound=Settings)


def build(kind: type[SettingsType], values: dict[str, Any], origin: str) -> SettingsType:
    """Settings from values; what is wrong with them is said in our words.

    Raises
    ------
    ConfigError : names the key, what must hold, what came, and `origin`: where the values are from
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(kind, problem, origin) for problem in _causes(error.errors()))) from None


def updated(settings: SettingsType, values: dict[str, Any], origin: str) -> SettingsType:
    """The same settings with some values changed, and checked again."""
    return build(type(settings), settings.model_dump() | values, origin)


# What must hold, in our words, by pydantic's name for what went wrong.
WORDS = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "a number"),
    **dict.fromkeys(("string_type", "string_unicode"), "a text"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list, as in [16] or [0.5, 1.0]"),
    **dict.fromkeys(("dict_type", "model_type"), "a table of settings"),
}


# A list of the wrong length: what must hold, from pydantic's context.
LENGTHS = {"too_short": "a list of {min_length} or more entries", "too_long": "a list of {max_length} or fewer entries"}


def _causes(problems: Sequence[Any]) -> list[Any]:
    """Problems without those of a list that is too short because one of its entries is wrong."""

    def follows(problem: Any) -> bool:
        loc = problem["loc"]
        return problem["type"] == "too_short" and any(o["loc"][:-1] == loc for o in problems)

    return [problem for problem in problems if not follows(problem)]


def _sentence(kind: type[Settings], problem: Any, origin: str) -> str:
    path = [str(part) for part in problem["loc"]]
    came = problem.get("input")
    if problem["type"] == "missing" and isinstance(problem["loc"][-1], int):  # of a list with a fixed number of entries
        problem = {"type": "too_short", "ctx": {"min_length": problem["loc"][-1] + 1}}
        path = path[:-1]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{origin}: there is no setting {name!r}. {did_you_mean(path[-1], _fields_at(kind, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{origin}: the setting {name!r} is missing"
    length = LENGTHS.get(problem["type"], "").format(**problem.get("ctx", {}))
    what = length or WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not path:
        return f"{origin}: {what}"
    shown = repr(came)
    return f"{origin}: {name} must be {what}, not {shown if len(shown) < 80 else shown[:77] + '...'}"


def _fields_at(kind: type[Settings], path: list[str]) -> list[str]:
    for part in path:
        annotation = kind.model_fields[part].annotation if part in kind.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, Settings)):
            return []
        kind = annotation
    return list(kind.model_fields)
