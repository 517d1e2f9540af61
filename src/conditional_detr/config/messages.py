"""Settings from values; what is wrong with them is said in our words."""

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
        raise ConfigError("; ".join(_sentence(kind, problem, origin) for problem in error.errors())) from None


def updated(settings: SettingsType, values: dict[str, Any], origin: str) -> SettingsType:
    """The same settings with some values changed, and checked again."""
    return build(type(settings), settings.model_dump() | values, origin)


# What must hold, in our words, by pydantic's name for what went wrong.
WORDS = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "a number"),
    **dict.fromkeys(("string_type", "string_unicode"), "a text"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list, as in [0.5, 1.0]"),
    **dict.fromkeys(("dict_type", "model_type"), "a table of settings"),
}


def _sentence(kind: type[Settings], problem: Any, origin: str) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(path)
    came = problem.get("input")
    if problem["type"] == "extra_forbidden":
        return f"{origin}: there is no setting {name!r}. {did_you_mean(path[-1], _fields_at(kind, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{origin}: the setting {name!r} is missing"
    what = WORDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
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
