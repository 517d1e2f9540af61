"""`cdetr data merge`."""

import sys
from pathlib import Path
from typing import Annotated

from conditional_detr.cli.parameters import argument
from conditional_detr.cli.printing import print_next, print_text, print_written, track
from conditional_detr.errors import ConfigError, plural


def merge(
    *folders: Annotated[Path, argument("Data sets in any supported format, and last the new folder for the merged set.")],
) -> None:
    """Merge data sets, as COCO folders. They may label different classes.

    Splits and classes are merged by name. Each image lists the classes that
    are labelled in it; training and evaluation ignore the others there.
    An image file that is in several data sets gets the labels of all.
    """
    from conditional_detr.data.findings import counted
    from conditional_detr.doctor.clean_copy import check_is_new, write_copy
    from conditional_detr.doctor.merging import merge_sets

    *sources, output = folders
    if len(folders) == 2:
        first, last = folders
        raise ConfigError(
            f"a new folder for the merged set must come last, for example: cdetr data merge {first} {last} merged"
        )
    if len(sources) < 2:
        raise ConfigError("data merge needs at least two data sets and a new folder: cdetr data merge A B OUT")
    check_is_new(output)
    result = merge_sets(sources, track)
    for line in [*counted(result.findings), *(f"warning: {text}" for text in result.warnings)]:
        print_text(line, file=sys.stderr)
    for each in result.sets:
        print_text(str(each))
    if result.joined:
        print_text(f"{plural(result.joined, 'image')} of several data sets: joined, with the labels of all")
    counts = write_copy(result.splits, result.findings, output)
    for name, (images, boxes) in counts.items():
        split = result.splits[name]
        partly = sum(split.clean.images[i]["labelled"] is not None for i in split.used)
        note = f", {plural(partly, 'image')} with labels of only some classes" if partly else ""
        print_text(f"{name}: {plural(images, 'image')}, {plural(boxes, 'box')}{note}")
    print_written(output)
    print_next("check the merged set", "cdetr", "doctor", output)
