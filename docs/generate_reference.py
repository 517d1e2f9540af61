"""Writes docs/reference/command-line.md and settings.md from the definitions in the code: python docs/generate_reference.py."""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from conditional_detr.cli.app import app
from conditional_detr.config.presets import PRESETS
from conditional_detr.config.recipes import RECIPES, RecipeConfig, RecipeOptions
from conditional_detr.config.schema import ModelConfig

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


def write(folder: Path) -> None:
    """Write both pages to a folder."""
    for name, page in {"command-line.md": command_line(), "settings.md": settings()}.items():
        (folder / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "reference")
