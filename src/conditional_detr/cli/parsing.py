"""Prepare the command line arguments for the parser, and convert errors of the parser to messages."""

import re
from collections.abc import Callable
from inspect import Parameter, signature
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from cyclopts import CycloptsError
from cyclopts.exceptions import CoercionError, MissingArgumentError

from conditional_detr.errors import ConfigError, did_you_mean

# Option of other tools → option of this one; "" = there is none.
HABITS = {
    "threshold": "--conf", "thresh": "--conf", "score": "--conf", "confidence": "--conf", "weights": "--model",
    "name": "--output", "project": "--output", "out": "--output", "img": "--imgsz", "img_size": "--imgsz",
    "image_size": "--imgsz", "batch_size": "--batch", "learning_rate": "--lr", "lr0": "--lr", "half": "--precision",
    "iou": "", "nms": "",
}  # fmt: skip
NO_SUPPRESSION = "The model needs no non-maximum suppression, so there is no IoU threshold."

Verbs = dict[tuple[str, ...], Callable[..., None]]


def options_of(verb: Callable[..., None]) -> dict[str, bool]:
    """Return the options of a command: "--name" → whether it takes a value."""
    options = {}
    for name, parameter in signature(verb).parameters.items():
        if parameter.kind is Parameter.KEYWORD_ONLY:
            option = "--" + name.strip("_").replace("_", "-")
            is_flag = _kind(parameter) in (bool, bool | None)
            options[option] = not is_flag
            if is_flag and parameter.default is not False:
                options[f"--no-{option[2:]}"] = False
    return options


def _kind(parameter: Parameter) -> Any:
    """Return the type of the value of an option, without the annotations for the parser."""
    annotation = parameter.annotation
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def lists_of(verb: Callable[..., None]) -> set[str]:
    """Return the options of a command that may be repeated."""
    parameters = signature(verb).parameters.items()
    return {"--" + name.strip("_").replace("_", "-") for name, parameter in parameters if "list[" in str(parameter.annotation)}


class Signature(NamedTuple):
    """Arguments and options of a command.

    Attributes
    ----------
    path : words of the name of the command, such as ("data", "convert")
    options : "--name" → whether it takes a value
    repeatable : options that may be repeated
    arguments : maximum number of positional arguments
    """

    path: tuple[str, ...]
    options: dict[str, bool]
    repeatable: set[str]
    arguments: float

    @property
    def name(self) -> str:
        return " ".join(self.path)


def normalised(tokens: list[str], verbs: Verbs) -> list[str]:
    """Return the tokens for the parser. `epochs=50` becomes `--epochs=50`.

    `name=value` is changed only if it is an option of the command and there is no file of that name.

    Raises
    ------
    ConfigError : a command or option is unknown, repeated or lacks its value. The message suggests a known name
    """
    if not tokens or tokens[0].startswith("-") or _is_data_alone(tokens):
        return tokens
    path = _path_of(tokens, verbs)
    verb = Signature(path, options_of(verbs[path]), lists_of(verbs[path]), max_arguments(verbs[path]))
    return [*path, *_normalised_arguments(tokens[len(path) :], verb)]


def _is_data_alone(tokens: list[str]) -> bool:
    return tokens[0] == "data" and (len(tokens) == 1 or tokens[1].startswith("-"))


def _path_of(tokens: list[str], verbs: Verbs) -> tuple[str, ...]:
    """Return the command that the first tokens name."""
    for path in verbs:
        if tuple(tokens[: len(path)]) == path:
            return path
    if tokens[0] == "data":
        known = [path[1] for path in verbs if path[0] == "data"]
        raise ConfigError(f"there is no command 'data {tokens[1]}'. {did_you_mean(tokens[1], known)}")
    raise ConfigError(f"there is no command {tokens[0]!r}. {did_you_mean(tokens[0], {path[0] for path in verbs})}")


def _normalised_arguments(tokens: list[str], verb: Signature) -> list[str]:
    out: list[str] = []
    free, given, rest = verb.arguments, set[str](), iter(tokens)
    for token in rest:
        if token == "--":  # only file names follow
            return [*out, token, *rest]
        option = _as_option(token, verb, free)
        if option is None and not token.startswith("-"):
            if not free:
                hint = ""
                if verb.path == ("train",) and Path(token).exists():
                    several = "--data" in given
                    hint = "to train on several data sets, merge them first: cdetr data merge A B OUT" if several else ""
                    hint = hint or f"did you mean --data {token}?"
                raise ConfigError(f"{verb.name} does not expect {token!r}: {hint or 'options are --name value or name=value'}")
            free -= 1
        words = [option or token]
        if option is not None and verb.options.get(option):
            words += islice(rest, 1)  # its value, even if that begins with dashes
            if "=" not in words[0] and len(words) == 1:
                raise ConfigError(f"{words[0]} needs a value")
        for word in words:
            _refuse_repetition(word, given, verb)
        out += words
    return out


def _as_option(token: str, verb: Signature, free: float) -> str | None:
    """Return a token as `--name` or `--name=value`. None if it is not an option. `free`: positional arguments still allowed."""
    name = token.split("=")[0]
    option = "--" + name.lstrip("-").replace("_", "-")
    is_assignment = re.match(r"[A-Za-z_][\w.-]*=", token) and not Path(token).exists() and (option in verb.options or not free)
    if token == "--help" or not (token.startswith("--") or is_assignment):
        return None
    if option not in verb.options:
        raise ConfigError(unknown_option(verb.path, name, verb.options))
    return option + token[len(name) :]


def _refuse_repetition(word: str, given: set[str], verb: Signature) -> None:
    """Record an option. Raise an error if it was given before and may not be repeated."""
    if word.startswith("--"):
        option = word.split("=")[0]
        if option in given and option not in verb.repeatable:
            raise ConfigError(f"{option} is given twice")
        given.add(option)


def max_arguments(verb: Callable[..., None]) -> float:
    """Return the maximum number of positional arguments of a command."""
    kinds = [parameter.kind for parameter in signature(verb).parameters.values()]
    return float("inf") if Parameter.VAR_POSITIONAL in kinds else kinds.count(Parameter.POSITIONAL_ONLY)


def unknown_option(path: tuple[str, ...], name: str, options: dict[str, bool]) -> str:
    """Return the message for an unknown option, with the option that was probably meant."""
    plain = name.lstrip("-").replace("-", "_")
    if "." in plain:
        return f"{' '.join(path)} has no option {name}: use --set {plain}=VALUE"
    if path == ("train",):
        from conditional_detr.config.recipes import RecipeConfig
        from conditional_detr.config.schema import ModelConfig

        for prefix, kind in (("", RecipeConfig), ("model.", ModelConfig)):
            if plain in kind.model_fields:
                return f"train has no option {name}: use --set {prefix}{plain}=VALUE"
    if plain in HABITS and (meant := HABITS[plain]) in (*options, ""):
        return f"{' '.join(path)} has no option {name}. " + (f"Did you mean {meant}?" if meant else NO_SUPPRESSION)
    near = did_you_mean("--" + name.lstrip("-"), options) if options else "It has no options."
    return f"{' '.join(path)} has no option {name}. {near}"


def parse_error(error: CycloptsError) -> str:
    """Return the message for an error of the parser."""
    argument = getattr(error, "argument", None)
    name = argument.name if argument is not None else ""
    if isinstance(error, MissingArgumentError):
        verb = " ".join(error.command_chain or [])
        return f"{verb} needs {name or 'another argument'}: see cdetr {verb} --help"
    if isinstance(error, CoercionError):
        words = {int: "a whole number", float: "a number", bool: "true or false"}
        kind = words.get(error.target_type, "another value") if error.target_type else "another value"
        token = getattr(error, "token", None)
        return f"{name} must be {kind}, not {getattr(token, 'value', None)!r}"
    return str(error).strip()
