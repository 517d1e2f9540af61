"""What people type, made ready for the parser; and what the parser says, in our words."""

import re
from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path

from cyclopts import CycloptsError
from cyclopts.exceptions import CoercionError, MissingArgumentError

from conditional_detr.errors import ConfigError, did_you_mean

Verbs = dict[tuple[str, ...], Callable[..., None]]


def options_of(verb: Callable[..., None]) -> dict[str, bool]:
    """Options of a verb: "--name" → whether it takes a value."""
    options = {}
    for name, parameter in signature(verb).parameters.items():
        if parameter.kind is Parameter.KEYWORD_ONLY:
            option = "--" + name.strip("_").replace("_", "-")
            is_flag = parameter.annotation in (bool, bool | None) or isinstance(parameter.default, bool)
            options[option] = not is_flag
            if is_flag and parameter.default is not False:
                options[f"--no-{option[2:]}"] = False
    return options


def lists_of(verb: Callable[..., None]) -> set[str]:
    """Options that may be given several times."""
    parameters = signature(verb).parameters.items()
    return {"--" + name.strip("_").replace("_", "-") for name, parameter in parameters if "list[" in str(parameter.annotation)}


def normalised(tokens: list[str], verbs: Verbs) -> list[str]:
    """Tokens as the parser wants them: `epochs=50` becomes `--epochs=50`; an unknown word names the nearest one.

    `name=value` is rewritten for options of the verb only, and never where a file of that name exists.
    """
    if not tokens or tokens[0].startswith("-"):
        return tokens
    path = next((p for p in verbs if tuple(tokens[: len(p)]) == p), None)
    if path is None:
        if tokens[0] == "data":
            rest = tokens[1:2]
            if not rest or rest[0].startswith("-"):
                return tokens
            raise ConfigError(
                f"there is no command 'data {rest[0]}'. {did_you_mean(rest[0], [p[1] for p in verbs if p[0] == 'data'])}"
            )
        raise ConfigError(f"there is no command {tokens[0]!r}. {did_you_mean(tokens[0], [p[0] for p in verbs])}")
    options, room, repeated = options_of(verbs[path]), places_of(verbs[path]), lists_of(verbs[path])
    seen: set[str] = set()
    out, takes_value = list(path), False
    for i, token in enumerate(tokens[len(path) :], len(path)):
        if token == "--" and not takes_value:  # what follows are names of files
            return out + tokens[i:]
        name = token.split("=")[0]
        option = "--" + name.lstrip("-").replace("_", "-")
        if takes_value:
            takes_value = False
        elif token.startswith("--") and token not in ("--", "--help"):
            if option not in options:
                raise ConfigError(unknown_option(path, name, options))
            takes_value = options[option] and "=" not in token
            token = option + token[len(name) :]
        elif re.match(r"[A-Za-z_][\w.-]*=", token) and not Path(token).exists() and (option in options or not room):
            if option not in options:
                raise ConfigError(unknown_option(path, name, options))
            token = option + token[len(name) :]
        elif not token.startswith("-"):
            if not room:
                raise ConfigError(f"{' '.join(path)} has no place for {token!r}: options are --name value or name=value")
            room -= 1
        if token.startswith("--"):
            option = token.split("=")[0]
            if option in seen and option not in repeated:
                raise ConfigError(f"{option} is given twice")
            seen.add(option)
        out.append(token)
    return out


def places_of(verb: Callable[..., None]) -> float:
    """How many words a verb takes that are no options."""
    kinds = [parameter.kind for parameter in signature(verb).parameters.values()]
    return float("inf") if Parameter.VAR_POSITIONAL in kinds else kinds.count(Parameter.POSITIONAL_ONLY)


def unknown_option(path: tuple[str, ...], name: str, options: dict[str, bool]) -> str:
    plain = name.lstrip("-").replace("-", "_")
    if "." in plain:
        return f"{' '.join(path)} has no option {name}: single settings are --set {plain}=VALUE"
    if path == ("train",):
        from conditional_detr.config.recipes import RecipeConfig
        from conditional_detr.config.schema import ModelConfig

        for prefix, kind in (("", RecipeConfig), ("model.", ModelConfig)):
            if plain in kind.model_fields:
                return f"train has no option {name}: single settings are --set {prefix}{plain}=VALUE"
    near = did_you_mean("--" + name.lstrip("-"), options) if options else "It has none."
    return f"{' '.join(path)} has no option {name}. {near}"


def parse_error(error: CycloptsError) -> str:
    """What the parser has to say, in our words."""
    argument = getattr(error, "argument", None)
    name = argument.name if argument is not None else ""
    if isinstance(error, MissingArgumentError):
        return f"{name or 'an argument'} is missing: see cdetr {' '.join(error.command_chain or [])} --help"
    if isinstance(error, CoercionError):
        words = {int: "a whole number", float: "a number", bool: "true or false"}
        kind = words.get(error.target_type, "another value") if error.target_type else "another value"
        token = getattr(error, "token", None)
        return f"{name} must be {kind}, not {getattr(token, 'value', None)!r}"
    return str(error).strip()
