"""Detect objects in image files, and write images with boxes and `predictions.json`."""

import glob
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from conditional_detr.errors import ConfigError, ImageError, RunError
from conditional_detr.images.decoding import is_url
from conditional_detr.images.file_types import IMAGE_FORMATS, describe_unsupported, folder_contents, is_note
from conditional_detr.inference.batching import detect
from conditional_detr.inference.detector import Detector, check_conf
from conditional_detr.inference.drawing import draw, save_image
from conditional_detr.inference.progress import Track, untracked
from conditional_detr.inference.results import clip_to_image, rows_of, selected
from conditional_detr.storage.run_files import PREDICTIONS, RENAMED
from conditional_detr.storage.writing import writing


@dataclass(frozen=True)
class Prediction:
    """Result of `predict`.

    Attributes
    ----------
    rows : rows of `predictions.json`
    read : number of images read
    unreadable : a message for each unreadable image
    renamed : for each written image with a number added to its name, its input; the content of `renamed.json`
    others : number of other JPEG files in the output folder, for example of an earlier call
    """

    rows: list[dict[str, Any]]
    read: int
    unreadable: list[str]
    renamed: dict[str, str]
    others: int


def find_images(inputs: Sequence[str], say: Callable[[str], None] = lambda line: None) -> list[str]:
    """Find the images for the given inputs: files, folders, glob patterns and URLs.

    Folders and their subfolders are searched for files with an image suffix, in sorted order. Hidden files are ignored.

    Parameters
    ----------
    say : function that receives a line for each folder with files in unsupported formats. Labels and notes are not reported

    Raises
    ------
    ConfigError : an input matches no image
    """
    found: list[str] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            inside, others = folder_contents(path)
            if not inside:
                formats = ", ".join(sorted(IMAGE_FORMATS))
                raise ConfigError(
                    f"{name} contains no images ({formats})" + (f": {describe_unsupported(others)}" if others else "")
                )
            if odd := [file for file in others if not is_note(file)]:
                say(f"ignored in {name}: {describe_unsupported(odd)}")
            found += map(str, inside)
        elif path.exists() or is_url(name):
            found.append(name)
        elif matches := _matches(name):
            found += matches
        else:
            raise ConfigError(f"{name}: there is no such file or folder, and no file matches it as a pattern")
    return found


def predict(
    detector: Detector,
    images: Sequence[str],
    output: str | Path,
    conf: float | None = None,
    batch: int = 8,
    track: Track = untracked,
) -> Prediction:
    """Detect objects in image files and write the results.

    An image is written as `STEM.jpg`. If that name is used already, a number is added, and `renamed.json` tells the input.

    Parameters
    ----------
    detector : a loaded model
    images : paths and URLs
    output : folder for the images with boxes and for `predictions.json`
    conf : lowest score, in [0, 1]; None = the model's own thresholds, or 0.3 if it has none
    batch : largest batch size
    track : function that shows progress
    """
    check_conf(conf)
    output = Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{output} cannot be created: {error.strerror or error}") from None
    model = detector.model
    errors: dict[int, ImageError] = {}
    names = _output_names(images, output)
    rows: dict[int, list[dict[str, Any]]] = {}
    detected = detect(model, images, batch, errors.__setitem__, detector.tiling)
    for position, rgb, found in track(detected, len(images), "predicting"):
        result = selected(clip_to_image(rgb, found), model, conf)
        found_rows = rows_of(result)
        labels = [f"{model.class_names[row.label]} {row.score:.2f}" for row in found_rows]
        save_image(draw(rgb, result["boxes"], result["labels"], labels), output / names[position])
        rows[position] = [
            {
                "image_id": position,
                "file_name": str(images[position]),
                "category_id": model.category_ids[row.label],
                "category_name": model.class_names[row.label],
                "bbox": row.bbox,
                "score": row.score,
            }
            for row in found_rows
        ]
    flat = [row for position in sorted(rows) for row in rows[position]]
    renamed = {names[i]: str(images[i]) for i in sorted(rows) if names[i] != _output_name(images[i])}
    _write(output / PREDICTIONS, flat)
    with writing(output / RENAMED, RunError):
        (output / RENAMED).unlink(missing_ok=True)  # of an earlier call
    if renamed:
        _write(output / RENAMED, renamed)
    written = {names[i] for i in rows} | {
        Path(image).name for image in images if Path(image).parent.resolve() == output.resolve()
    }
    others = sum(file.name not in written for file in output.glob("*.jpg"))
    return Prediction(flat, len(rows), [str(errors[position]) for position in sorted(errors)], renamed, others)


def _write(file: Path, content: Any) -> None:
    with writing(file, RunError):
        # Bytes of a file name that are not valid UTF-8 are written as JSON escapes.
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")


def _matches(pattern: str) -> list[str]:
    return sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())  # noqa: PTH207


def _output_name(image: str, number: int = 1) -> str:
    stem = Path(str(image).split("?")[0]).stem or "image"
    return f"{stem}.jpg" if number == 1 else f"{stem}-{number}.jpg"


def _output_names(images: Sequence[str], output: Path) -> list[str]:
    """Return output file names, `STEM.jpg`. A number is added if the name is in use or would overwrite an input."""
    inputs = {Path(image).resolve() for image in images if not is_url(image)}
    # Compared without case, because on some file systems A.jpg and a.jpg are the same file.
    used = {Path(image).name.casefold() for image in images if Path(image).parent.resolve() == output.resolve()}
    names = []
    free: dict[str, int] = {}  # for each name the first number that may be free
    for image in images:
        plain = _output_name(image).casefold()
        for number in count(free.get(plain, 1)):
            name = _output_name(image, number)
            if name.casefold() not in used and (output / name).resolve() not in inputs:
                break
        free[plain] = number + 1
        used.add(name.casefold())
        names.append(name)
    return names
