"""Pages: one file each, without scripts, that opens offline."""

import base64
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from conditional_detr.errors import RunError, plural
from conditional_detr.storage.writing import writing


def write_page(file: Path, template: str, content: dict[str, Any]) -> None:
    """Fill a template of this folder; whatever the content says is escaped."""
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    pages.filters |= {"ap": ap, "number": number, "plural": plural, "options": options}
    text = pages.get_template(f"{template}.html.jinja").render(content)
    with writing(file, RunError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", errors="backslashreplace")


def embedded(content: bytes) -> str:
    """An image's bytes as a page holds them."""
    return base64.b64encode(content).decode("ascii")


def ap(value: float | None) -> str:
    """A figure between 0 and 1 as it is shown."""
    return "–" if value is None else f"{value:.3f}"


def options(text: str) -> Markup:
    """A sentence in which options of the command line, such as --conf 0.4, are not broken over lines."""
    return Markup(re.sub(r"--[a-z-]+ [\d.]*\d", r"<code>\g<0></code>", str(escape(text))))


def number(value: Any) -> str:
    """A number of a table in few digits."""
    return "–" if value is None else str(value) if isinstance(value, int | str) else f"{value:.4g}"


def versions() -> str:
    """What all this ran with."""
    packages = ("conditional-detr", "torch", "torchvision", "timm")
    return ", ".join(f"{name} {version(name)}" for name in packages) + f", Python {platform.python_version()}"


def duration(seconds: float) -> str:
    """75 → "1 min 15 s", 1640 → "27 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
