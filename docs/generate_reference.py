"""Writes docs/reference/command-line.md and settings.md, and the tables of guide/serve.md, from the definitions in the code.

Command: python docs/generate_reference.py
"""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from conditional_detr.cli.app import app
from conditional_detr.config.presets import PRESETS
from conditional_detr.config.recipes import RECIPES, RecipeConfig, RecipeOptions
from conditional_detr.config.schema import ModelConfig
from conditional_detr.serving.connections import CONNECTIONS, HEADER_SECONDS
from conditional_detr.serving.description import REASONS
from conditional_detr.serving.forms import HEADER_BYTES
from conditional_detr.serving.limits import BODIES, OPTIONS, Limits
from conditional_detr.serving.metrics import Metrics
from conditional_detr.serving.uploads import OTHER_FIELDS

NOTE = "<!-- Written by docs/generate_reference.py. Change the definition in the code instead. -->\n\n"


def command_line() -> str:
    """All commands with their options."""
    text = app.generate_docs(heading_level=1, flatten_commands=False)
    text = text.replace("# cdetr\n", "# Command line\n", 1)
    text = re.sub(r"cdetr ((?:\w+ )+)\1", r"cdetr \1", text)  # a usage of our own begins with the command already
    start, end = text.index("## Table of Contents"), text.index("**Commands**")
    return NOTE + text[:start] + text[end:].rstrip() + "\n"


def settings() -> str:
    """All settings that `--set` and TOML files know."""
    options = set(RecipeOptions.model_fields)
    r50, tiny = (PRESETS[f"conditional-detr-{size}"].model for size in ("r50", "tiny"))
    recipe = [name for name in RecipeConfig.model_fields if name not in options]
    lines = [
        "# Settings",
        "",
        "Every setting can be given in three ways:",
        "",
        "- on the command line: `cdetr train --set weight_decay=0.01 --set model.num_queries=50`",
        "- in a TOML file for `--config`: `weight_decay = 0.01`, and the model's settings in the table `[model_overrides]`",
        '- in Python: `cdetr.train(…, recipe_overrides={"weight_decay": 0.01}, model_overrides={"num_queries": 50})`',
        "",
        "Options such as `--epochs` and `--lr` are listed under [command line](command-line.md#cdetr-train).",
        "",
        "## Training",
        "",
        "| setting | meaning | `paper` | `fast` |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {_meaning(RecipeConfig.model_fields[name])} | "
            f"{_value(getattr(RECIPES['paper'], name))} | {_used(RECIPES['fast'], name)} |"
            for name in recipe
        ),
        "",
        "With `fast`, some of them are chosen from the data: see [recipes](../guide/train.md#recipes).",
        "",
        "## Model",
        "",
        "In `--set` their names begin with `model.`. [Models](../models.md) explains the choices and all model names.",
        "",
        "| setting | meaning | `conditional-detr-r50` | `conditional-detr-tiny` |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {_meaning(field)} | {_value(getattr(r50, name))} | {_value(getattr(tiny, name))} |"
            for name, field in ModelConfig.model_fields.items()
        ),
        "",
    ]
    return NOTE + "\n".join(lines)


def _used(recipe: RecipeConfig, name: str) -> str:
    """A recipe's value of a setting; a dash if its schedule does not use it."""
    return "–" if name == "lr_drop_at" and recipe.schedule != "step" else _value(getattr(recipe, name))


def _meaning(field: Any) -> str:
    text = (field.description or "").replace("|", "\\|")
    if get_origin(field.annotation) is Literal:
        choices = ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
        text = f"{text}{'. ' if text and not text.endswith('.') else ' '}One of {choices}".strip()
    return text.rstrip(".")


def _value(value: Any) -> str:
    if value == "":
        return '`""`'
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value}`"


def limits_of_server() -> str:
    """Table of what a server accepts."""
    own = Limits()
    rows = [
        ("size of a request", OPTIONS["upload_bytes"], f"{own.upload_bytes / 1e6:g} MB", "413"),
        ("all requests in memory together", "", f"{BODIES} times that", "503"),
        ("pixels of an image, all its frames together", OPTIONS["pixels"], f"{own.pixels / 1e6:g} million", "400"),
        ("images in a request", OPTIONS["images"], own.images, "400"),
        ("other fields of a form", "", OTHER_FIELDS, "400"),
        ("header of a part of a form", "", f"{HEADER_BYTES} bytes", "400"),
        ("images in work, in all requests", OPTIONS["queue"], own.queue, "503"),
        ("time of a request", OPTIONS["seconds"], f"{own.seconds:g} s", "408 if it is not complete, else 503"),
        ("time to read an answer", OPTIONS["seconds"], f"{own.seconds:g} s", "the connection is closed"),
        ("time to send a header", "", f"{HEADER_SECONDS:g} s", "the connection is closed"),
        ("connections", "", CONNECTIONS, "one that waits is closed; if none waits, 503"),
    ]
    lines = [f"| {what} | {f'`{option}`' if option else ''} | {default} | {beyond} |" for what, option, default, beyond in rows]
    return "\n".join(["| limit | option | default | beyond it |", "|---|---|---|---|", *lines])


def answers_of_server() -> str:
    """Table of the statuses of a server."""
    return "\n".join(
        ["| status | meaning |", "|---|---|", *(f"| {status} | {text} |" for status, (text, _) in REASONS.items())]
    )


def metrics_of_server() -> str:
    """Table of the metrics of a server."""
    found = sorted((each.name + ("_total" if each.type == "counter" else ""), each) for each in Metrics().registry.collect())
    lines = [f"| `{name}` | {each.type} | {each.documentation.rstrip('.')} |" for name, each in found]
    return "\n".join(["| metric | type | |", "|---|---|---|", *lines])


BLOCKS = {"limits": limits_of_server, "answers": answers_of_server, "metrics": metrics_of_server}


def filled(page: str) -> str:
    """A page with the tables that its comments name."""
    for name, table in BLOCKS.items():
        begin, end = f"<!-- {name}: written by docs/generate_reference.py -->", f"<!-- end of {name} -->"
        page = re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table()}\n{end}", page, flags=re.DOTALL)  # noqa: B023
    return page


def write(docs: Path, into: Path) -> None:
    """Write the pages that are made of `docs` to another folder."""
    guide = (docs / "guide" / "serve.md").read_text(encoding="utf-8")
    pages = {
        "reference/command-line.md": command_line(),
        "reference/settings.md": settings(),
        "guide/serve.md": filled(guide),
    }
    for name, page in pages.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent, Path(__file__).parent)
