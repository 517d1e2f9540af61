"""Read and write settings as TOML."""

import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from conditional_detr.config.schema import Settings
from conditional_detr.errors import ConfigError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file into a dict.

    Raises
    ------
    ConfigError : the file cannot be opened or is not valid TOML
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be opened: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None


def to_toml(settings: Settings) -> str:
    """Convert settings to a TOML string."""
    return tomli_w.dumps(settings.model_dump(mode="json"))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings into one dict with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found
