"""Validate settings and turn pydantic's errors into messages for the user."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from conditional_detr.config.schema import Settings
from conditional_detr.errors import ConfigError, did_you_mean

SettingsType = TypeVar("SettingsType", bound=Settings)


def build(kind: type[SettingsType], values: dict[str, Any], origin: str) -> SettingsType:
    """Create a settings object from a dict of values.

    Parameters
    ----------
    kind : class of the settings
    values : value of each field by its name
    origin : where the values come from (a file or a function); starts every error message

    Raises
    ------
    ConfigError : a value is invalid; the message gives `origin`, the key, the expected value and the actual one
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(kind, problem, origin) for problem in _causes(error.errors()))) from None


def updated(settings: SettingsType, values: dict[str, Any], origin: str) -> SettingsType:
    """Copy settings with some values changed, and validate the result. Parameters and errors as in `build`."""
    return build(type(settings), settings.model_dump() | values, origin)


def check_values(kind: type[Settings], values: dict[str, Any], origin: str) -> None:
    """Check each value by itself, without the other settings. Parameters and errors as in `build`."""
    fields: dict[str, Any] = {name: (kind.model_fields[name].annotation, kind.model_fields[name]) for name in values}
    build(create_model(kind.__name__, __base__=Settings, **fields), values, origin)


# Description of the expected value, by pydantic's error type.
WORDS = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "a number"),
    **dict.fromkeys(("string_type", "string_unicode"), "a string"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list, as in [16] or [0.5, 1.0]"),
    **dict.fromkeys(("dict_type", "model_type"), "a table of settings"),
}


# Description of the expected length of a list, by pydantic's error type. The numbers come from the error's context.
LENGTHS = {"too_short": "a list of {min_length} or more entries", "too_long": "a list of {max_length} or fewer entries"}


def _causes(problems: Sequence[Any]) -> list[Any]:
    """Drop "too short" errors of lists that only became too short because one of their entries is invalid."""

    def follows(problem: Any) -> bool:
        loc = problem["loc"]
        return problem["type"] == "too_short" and any(o["loc"][:-1] == loc for o in problems)

    return [problem for problem in problems if not follows(problem)]


def _sentence(kind: type[Settings], problem: Any, origin: str) -> str:
    path = [str(part) for part in problem["loc"]]
    came = problem.get("input")
    if problem["type"] == "missing" and isinstance(problem["loc"][-1], int):  # an entry of a fixed-length list
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
