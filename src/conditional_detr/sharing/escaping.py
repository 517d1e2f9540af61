"""Texts of users, such as class names, as parts of a card: they can add neither Markdown nor HTML nor YAML."""

import re
import unicodedata

import yaml

LONGEST = 80  # default maximum length of a text, characters
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Characters of Markdown, an underscore that does not stand inside a word, and what begins a link or a mention without brackets.
SPECIAL = re.compile(r"[\\`*{}\[\]#|~$!@&<>]|(?<![^\W_])_|_(?![^\W_])|(?<=:)//|(?<=www)\.", re.IGNORECASE)


def one_line(text: str, longest: int = LONGEST) -> str:
    """Shorten a text to one line, without control and formatting characters.

    >>> one_line("a\\n---\\nb\\u202e")
    'a --- b'
    """
    visible = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 10 * longest])
    line = " ".join(visible.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def markdown(text: str, longest: int = LONGEST) -> str:
    """Return Markdown that shows a text as it is, in a sentence or in a cell of a table.

    >>> markdown("<b>a|b</b> *c* white_cell")
    '&lt;b&gt;a\\\\|b&lt;/b&gt; \\\\*c\\\\* white_cell'
    """
    return SPECIAL.sub(_escaped, one_line(text, longest)) or "(no name)"


def _escaped(found: re.Match[str]) -> str:
    return ENTITIES.get(found[0]) or "".join(f"\\{character}" for character in found[0])


class Quoted(str):
    """A text of a user. YAML shows it in quotes, so that no reader takes it for a number or a date."""


class _Writer(yaml.SafeDumper):
    pass


_Writer.add_representer(
    Quoted, lambda writer, text: writer.represent_scalar("tag:yaml.org,2002:str", one_line(text), style='"')
)


def to_yaml(content: dict[str, object]) -> str:
    """Write a dict as YAML in the order of its keys."""
    return yaml.dump(content, Dumper=_Writer, sort_keys=False, allow_unicode=True, width=1000)
