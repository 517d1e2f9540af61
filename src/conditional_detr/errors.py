"""The exceptions that this library raises, and words for their messages.

ConditionalDETRError
├── ConfigError        an option or key is unknown, or a value is invalid
├── SourceError        a model source does not refer to a model
├── CheckpointError    weights or their description are damaged or do not match
├── UnavailableError   something must be downloaded or installed first
├── DataError          a data set cannot be used as it is
├── ImageError         an image cannot be read
├── ExportError        the detections of an exported model differ from those of the original
└── RunError           a run folder is in the wrong state

Each message states what is required, which value was given and where it came from, and what to do. The command line prints
the message and exits with 2.
"""

import difflib
from collections.abc import Iterable

FEW_WORDS = 4  # so few known words are always listed
MAX_LISTED = 60  # words of a message


class ConditionalDETRError(Exception):
    """Base class. The user's input is wrong, and the message says what to do."""


class ConfigError(ConditionalDETRError, ValueError):
    """An option or key is unknown, or a value is invalid."""


class SourceError(ConditionalDETRError, ValueError):
    """A model source does not refer to a model."""


class CheckpointError(ConditionalDETRError, ValueError):
    """Weights or their description are damaged or do not match."""


class UnavailableError(ConditionalDETRError, RuntimeError):
    """Something must be downloaded or installed first."""


class DataError(ConditionalDETRError, ValueError):
    """A data set cannot be used as it is."""


class ImageError(ConditionalDETRError, ValueError):
    """An image cannot be read."""


class ExportError(ConditionalDETRError, RuntimeError):
    """The detections of an exported model differ from those of the original."""


class RunError(ConditionalDETRError, RuntimeError):
    """A run folder is in the wrong state."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that `word` begins, or the most similar one. If there is none, list known words.

    >>> did_you_mean("fp16", ["fp32", "bf16", "int8"])
    'Did you mean bf16? Known: bf16, fp32, int8.'
    >>> did_you_mean("clip", ["clip_max_norm", "vflip", "hflip", "lr", "crop"])
    'Did you mean clip_max_norm?'
    >>> did_you_mean("zzz", ["focal", "softmax"])
    'Known: focal, softmax.'
    """
    names = sorted(known)
    begun = [name for name in names if len(word) > 2 and name.startswith(word)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near and len(names) > FEW_WORDS:
        return f"Did you mean {near[0]}?"
    if near:
        return f"Did you mean {near[0]}? Known: {', '.join(names)}."
    if len(names) > MAX_LISTED:
        return f"There are {len(names)}, such as {', '.join(names[:3])}."
    return f"Known: {', '.join(names)}."


def shortened_list(names: Iterable[str], most: int = 3) -> str:
    """Join the first few names, with an ellipsis if there are more.

    >>> shortened_list(["cat", "dog", "cow", "hen"])
    'cat, dog, cow, …'
    """
    names = list(names)
    return ", ".join([*names[:most], *(["…"] if len(names) > most else [])])


def plural(count: int, noun: str) -> str:
    """Return a number with its noun.

    >>> plural(1, "image"), plural(3, "image"), plural(2, "box"), plural(2, "class")
    ('1 image', '3 images', '2 boxes', '2 classes')
    """
    ending = "" if count == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{count} {noun}{ending}"
