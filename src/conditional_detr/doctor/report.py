"""The page about a data set: findings, statistics of each split, and sample images."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.data.annotations import mark_of
from conditional_detr.data.findings import Finding, where
from conditional_detr.doctor.copies import ORDER
from conditional_detr.doctor.examined import Examined
from conditional_detr.doctor.statistics import Statistics, statistics
from conditional_detr.errors import ImageError, shortened_list
from conditional_detr.evaluation import plots
from conditional_detr.evaluation.pages import embedded, write_page
from conditional_detr.evaluation.report import jpeg
from conditional_detr.images.decoding import decode_array
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.inference.drawing import draw

SAMPLES = 8  # images of each split that are shown
MAX_CLASSES = 20  # classes in the plot of co-occurrence
SMALL_CELLS = 2.5  # objects with a smaller side are hard to find


def write_data_report(
    splits: dict[str, Examined],
    findings: Sequence[Finding],
    config: ModelConfig,
    image: PreprocessorConfig,
    file: Path,
    title: str,
) -> None:
    """Write the page.

    Parameters
    ----------
    splits, findings : results of `examine`
    config, image : configuration of the model and of its preprocessing, for sizes in cells of its feature map
    file : output file
    title : name of the data set

    Raises
    ------
    RunError : the file cannot be written
    """
    stride = config.finest_stride
    order = sorted(splits, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    found = {name: statistics(splits[name].clean, Preprocessor(image), stride) for name in order}
    names = list(dict.fromkeys(name for each in found.values() for name in each.class_names))
    content = {
        "title": title,
        "splits": [_split(name, splits[name], each) for name, each in found.items()],
        "findings": _counted(findings),
        "imgsz": image.imgsz,
        "stride": stride,
        "sizes": _histogram(found, "side", "size of an object, px", log=True),
        "cells": _histogram(found, "cells", f"size in cells of {stride} px", log=True, mark=SMALL_CELLS),
        "small": _small(found),
        "small_cells": SMALL_CELLS,
        "aspects": _histogram(found, "aspect", "width / height", log=True),
        "numbers": _histogram(found, "per_image", "objects per image"),
        "classes": _classes(found, names),
        "split_names": list(found),
        "together": embedded(plots.co_occurrence(*_together(found, names))) if len(names) > 1 else "",
        "centres": [{"name": name, "svg": embedded(plots.heat_map(each.centres))} for name, each in found.items()],
        "written": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    }
    write_page(file, "data", content)


def _split(name: str, split: Examined, found: Statistics) -> dict[str, Any]:
    sizes = Counter((image["width"], image["height"]) for image in split.clean.images).most_common(3)
    return {
        "name": name,
        "summary": str(split.summary),
        "format": split.source.format,
        "sizes": ", ".join(f"{width} × {height} px ({count})" for (width, height), count in sizes),
        "median": float(np.median(found.side)) if len(found.side) else None,
        "samples": _samples(split),
    }


def _samples(split: Examined) -> list[dict[str, str]]:
    """Images with their boxes, evenly spaced over the split."""
    usable = split.used
    chosen = (
        sorted({usable[i] for i in np.linspace(0, len(usable) - 1, min(SAMPLES, len(usable))).astype(int)}) if usable else []
    )
    label_of = {category.id: k for k, category in enumerate(split.clean.categories)}
    samples = []
    for i in chosen:
        image = split.clean.images[i]
        rows = [row for row in split.clean.annotations if row["image"] == i and mark_of(row) is None]
        boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([label_of[row["category_id"]] for row in rows], dtype=np.int64)
        texts = [plots.shortened(split.clean.categories[label].name) for label in labels]
        try:
            drawn = draw(decode_array(image["path"]), boxes, labels, texts)
        except ImageError:
            continue
        samples.append({"name": Path(image["path"]).name + _labelled_here(split, i), "jpeg": embedded(jpeg(drawn))})
    return samples


def _labelled_here(split: Examined, image: int) -> str:
    """The classes that are labelled in an image, if not all are."""
    labelled = split.clean.images[image]["labelled"]
    if labelled is None:
        return ""
    names = [category.name for category in split.clean.categories if category.id in labelled]
    return f", labelled here: {shortened_list(names, 10)}" if names else ", no class is labelled here"


def _counted(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings by code, the most frequent first, with the first message of each."""
    counts = Counter((finding.severity, finding.code) for finding in findings)
    first = {(finding.severity, finding.code): finding for finding in reversed(findings)}
    return [
        {
            "code": key[1],
            "severity": key[0],
            "count": count,
            "message": f"{where(first[key])}: {first[key].message}",
            "fix": first[key].fix,
        }
        for key, count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    ]


def _histogram(found: dict[str, Statistics], name: str, label: str, log: bool = False, mark: float | None = None) -> str:
    return embedded(plots.histogram({split: getattr(each, name) for split, each in found.items()}, label, log, mark))


def _small(found: dict[str, Statistics]) -> str:
    """A sentence about the objects that are small for the model."""
    shares = [f"{100 * np.mean(each.cells < SMALL_CELLS):.0f} % in {name}" for name, each in found.items() if len(each.cells)]
    return f"Objects smaller than {SMALL_CELLS:g} cells: {', '.join(shares)}." if shares else ""


def _classes(found: dict[str, Statistics], names: list[str]) -> list[dict[str, Any]]:
    """One row per class, the most frequent first: number of objects and of images in each split."""
    counts = {
        name: [
            (int(each.objects[k]), int(each.images[k])) if (k := _position(each.class_names, name)) is not None else (0, 0)
            for each in found.values()
        ]
        for name in names
    }
    totals = {name: sum(objects for objects, _ in each) for name, each in counts.items()}
    most = max(1, *totals.values(), 1)
    order = sorted(names, key=lambda name: -totals[name])
    return [{"name": name, "counts": counts[name], "share": 100 * totals[name] / most} for name in order]


def _position(names: list[str], name: str) -> int | None:
    return names.index(name) if name in names else None


def _together(found: dict[str, Statistics], names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Images with both classes, over all splits, for the most frequent classes."""
    position = {name: k for k, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for each in found.values():
        rows = [position[name] for name in each.class_names]
        counts[np.ix_(rows, rows)] += each.together
    shown = np.sort(np.argsort(-counts.diagonal(), kind="stable")[:MAX_CLASSES])
    return counts[np.ix_(shown, shown)], [names[k] for k in shown]
