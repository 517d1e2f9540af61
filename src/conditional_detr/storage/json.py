"""JSON files as others may have written them."""

import json
import re
from pathlib import Path
from typing import Any

from conditional_detr.errors import ConditionalDETRError

HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0")  # perhaps: in UTF-16 there is a zero everywhere
MOST_JSON_BYTES = 2**32  # COCO's own largest file has half a billion


def read_json_object(path: Path, kind: type[ConditionalDETRError]) -> dict[str, Any]:
    """A JSON file that holds an object, as a dict; whatever else it is, is said as an error of the given kind."""
    try:
        if (size := path.stat().st_size) > MOST_JSON_BYTES:
            raise kind(f"{path} is larger than any JSON file that is read here: {size} bytes, the limit is {MOST_JSON_BYTES}")
        text = path.read_bytes()
        content = json.loads(text)
        content = without_surrogates(content) if HALF_CHARACTER.search(text) else content
    except OSError as error:
        raise kind(f"{path} cannot be opened: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise kind(f"{path} is no valid JSON: {str(error)[:200]}") from None
    if not isinstance(content, dict):
        raise kind(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def without_surrogates(value: Any) -> Any:
    """What a JSON holds, without halves of characters, which no file can be named by or written with."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(inner) for key, inner in value.items()}
    return [without_surrogates(inner) for inner in value] if isinstance(value, list) else value
