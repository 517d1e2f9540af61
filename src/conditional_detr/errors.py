"""Everything that this library raises on purpose.

ConditionalDETRError
├── ConfigError        an option, a key or a value that cannot be
├── SourceError        a model source that is none of the known kinds
├── CheckpointError    weights or their description are damaged or do not fit
├── UnavailableError   something that must be fetched or installed first
├── DataError          a data set that cannot be used as it is
├── ImageError         one image that cannot be read
├── ExportError        an exported model that does not find what the original finds
└── RunError           a run folder in the wrong state

Each message says what must hold, what came and from where, and what to do. The command line prints it and exits with 2.
"""

import difflib
from collections.abc import Iterable


class ConditionalDETRError(Exception):
    """The user's input is wrong; the message says what to do."""


class ConfigError(ConditionalDETRError, ValueError):
    """An option, a key or a value that cannot be."""


class SourceError(ConditionalDETRError, ValueError):
    """A model source that is none of the known kinds."""


class CheckpointError(ConditionalDETRError, ValueError):
    """Weights or their description are damaged or do not fit."""


class UnavailableError(ConditionalDETRError, RuntimeError):
    """Something that must be fetched or installed first."""


class DataError(ConditionalDETRError, ValueError):
    """A data set that cannot be used as it is."""


class ImageError(ConditionalDETRError, ValueError):
    """One image that cannot be read."""


class ExportError(ConditionalDETRError, RuntimeError):
    """An exported model that does not find what the original finds."""


class RunError(ConditionalDETRError, RuntimeError):
    """A run folder in the wrong state."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A closing sentence that names the nearest known word, or all of them if none is near.

    >>> did_you_mean("--epoch", ["--epochs", "--batch"])
    'Did you mean --epochs?'
    >>> did_you_mean("zzz", ["focal", "softmax"])
    'Known: focal, softmax.'
    """
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(names)}."


def shortened_list(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and a sign that there are more.

    >>> shortened_list(["cat", "dog", "cow", "hen"])
    'cat, dog, cow, …'
    """
    names = list(names)
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])
