"""Read JSON files, also those from unknown sources."""

import json
import re
from pathlib import Path
from typing import Any

from conditional_detr.errors import ConditionalDETRError

# Bytes that may be part of a lone surrogate. Files with zero bytes are UTF-16, which may contain one too.
HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0")
MAX_JSON_BYTES = 2**32  # the largest annotation file of COCO has 0.5 GB


def read_json_object(path: Path, kind: type[ConditionalDETRError]) -> dict[str, Any]:
    """Read a JSON file that must hold an object. If it does not or cannot be read, raise an error of the given class."""
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise kind(f"{path} must not be larger than {MAX_JSON_BYTES} bytes: it has {size}")
        text = path.read_bytes()
        content = json.loads(text)
        content = without_surrogates(content) if HALF_CHARACTER.search(text) else content
    except OSError as error:
        raise kind(f"{path} cannot be opened: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise kind(f"{path} is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise kind(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def without_surrogates(value: Any) -> Any:
    """Replace lone surrogates in parsed JSON by �, because they cannot be written to files or used in file names."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(inner) for key, inner in value.items()}
    return [without_surrogates(inner) for inner in value] if isinstance(value, list) else value
