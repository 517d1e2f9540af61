"""The sections of a model card about its data: what the model was trained on, how good it is, and what is not known."""

from collections.abc import Iterable

from conditional_detr.errors import plural
from conditional_detr.evaluation.coco import FIGURE_MEANINGS
from conditional_detr.sharing.escaping import markdown
from conditional_detr.sharing.facts import Facts, SplitFacts

SHOWN_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
SPLITS = {"train": "training", "valid": "validation"}
FEW_IMAGES = 1000  # a training set with fewer images is called small
FEW_TO_TRAIN, FEW_TO_JUDGE = 50, 10  # classes with fewer objects are named, in training and in validation
MOST_NAMES = 10
FOLDED = 20  # a longer table of classes is folded
MOST_DETECTIONS = 100
NOT_RECORDED = "not recorded"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a Markdown table. The cells must be Markdown."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def data_section(facts: Facts) -> str:
    """What the model was trained and evaluated on."""
    stated = facts.stated
    name = markdown(facts.data_name) if facts.data_name else ""
    if name and stated.data_url:
        name = f"[{name}](<{stated.data_url}>)"
    elif stated.data_url:
        name = f"<{stated.data_url}>"
    lines = [f"Data set: {name}." if name else "The data set was not stated."]
    lines.append(f"Its licence: `{stated.data_licence}`." if stated.data_licence else "The licence of the data was not stated.")
    text = " ".join(lines)
    if not facts.splits:
        return f"{text}\n\nThe numbers of images and objects were {NOT_RECORDED}."
    rows = [
        (SPLITS[key], f"{split.images:,}", f"{split.objects:,}", _span(split.shorter_side_px), _span(split.longer_side_px))
        for key, split in facts.splits.items()
    ]
    columns = ("split", "images", "objects", "shorter side, px", "longer side, px")
    return f"{text}\n\n{table(columns, rows)}\n\nSides: smallest to largest (median)."


def results_section(facts: Facts) -> str:
    """The metrics with their intervals, and those of each class."""
    if facts.results is None:
        return f"Not measured: there are no metrics of a finished training run.\n\n{_classes(facts)}"
    valid = facts.splits.get("valid")
    size = f": {plural(valid.images, 'image')}, {plural(valid.objects, 'object')}" if valid else ""
    rows = []
    for name in SHOWN_METRICS:
        bounds = facts.results.intervals.get(name)
        interval = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else "–"
        rows.append((name, FIGURE_MEANINGS[name], figure(facts.results.figures.get(name)), interval))
    return (
        f"COCO metrics on the validation split{size}. **This split also chose the epoch and the score thresholds, so expect "
        "somewhat lower figures on new images.** No other split was used.\n\n"
        f"{table(('metric', 'meaning', 'value', '95 % interval'), rows)}\n\n"
        "The intervals are a bootstrap over the images. They cover the choice of the images, not the seed of the training. A "
        f"dash means that there are no such objects, or that no interval was computed.\n\n{_classes(facts)}"
    )


def figure(value: float | None) -> str:
    """A metric in three digits; a dash if there is none."""
    return "–" if value is None else f"{value:.3f}"


def _classes(facts: Facts) -> str:
    """A row for each class: AP, score threshold, and number of objects."""
    names, thresholds, results = facts.model.class_names, facts.model.thresholds, facts.results
    columns, rows = ["class"], [[markdown(name)] for name in names]
    if results is not None:
        columns.append("AP")
        for row, value in zip(rows, results.ap_by_class, strict=True):
            row.append(figure(value))
    if thresholds is not None:
        columns.append("score threshold")
        for row, score in zip(rows, thresholds, strict=True):
            row.append(f"{score:.2f}")
    for key, split in facts.splits.items():
        columns.append(f"objects in {SPLITS[key]}")
        for row, count in zip(rows, split.objects_by_class, strict=True):
            row.append(f"{count:,}")
    text = table(columns, rows)
    if len(names) > FOLDED:
        return f"<details>\n<summary>{len(names)} classes</summary>\n\n{text}\n\n</details>"
    return text


def limits_section(facts: Facts) -> str:
    """What the model has not seen and what was not measured."""
    train, valid = facts.splits.get("train"), facts.splits.get("valid")
    lines = [*_limits_of_training(facts, train), *_limits_of_results(facts, valid)]
    if not facts.model.preprocessor.tile:
        most = min(MOST_DETECTIONS, facts.model.config.num_queries)
        lines.append(f"The model finds at most {most} objects in an image.")
    return "\n".join(f"- {line}" for line in lines)


def _limits_of_training(facts: Facts, train: SplitFacts | None) -> list[str]:
    if train is None:
        return ["What the model was trained on was not recorded, so nobody can say here which images it can be used for."]
    small = ", which is a small set" if train.images < FEW_IMAGES else ""
    lines = [
        f"The model was trained on {plural(train.images, 'image')}{small}. Expect worse results on images that differ from "
        "them, for example in camera, light, place, or size of the objects.",
        f"The shorter sides of these images measure {_span(train.shorter_side_px)} px. Other sizes were not seen.",
    ]
    if few := _names(facts, train, FEW_TO_TRAIN):
        lines.append(f"Classes with fewer than {FEW_TO_TRAIN} training objects: {few}.")
    return lines


def _limits_of_results(facts: Facts, valid: SplitFacts | None) -> list[str]:
    if facts.results is None:
        return ["Accuracy was not measured."]
    lines = []
    if valid is not None and (few := _names(facts, valid, FEW_TO_JUDGE)):
        lines.append(f"Classes with fewer than {FEW_TO_JUDGE} validation objects, so that their AP says little: {few}.")
    lines.append(
        "Not measured: images from another source, a split that chose nothing, other seeds, and how reliable the scores are as "
        "probabilities."
    )
    return lines


def _names(facts: Facts, split: SplitFacts, fewest: int) -> str:
    """The classes with too few objects, fewest first."""
    found = sorted((count, k) for k, count in enumerate(split.objects_by_class) if count < fewest)
    shown = [f"“{markdown(facts.model.class_names[k])}” ({count})" for count, k in found[:MOST_NAMES]]
    more = [f"and {len(found) - MOST_NAMES} more"] if len(found) > MOST_NAMES else []
    return ", ".join(shown + more)


def _span(sides: tuple[int, int, int]) -> str:
    """Smallest, median and largest side in words."""
    smallest, median, largest = sides
    return str(median) if smallest == largest else f"{smallest} to {largest} ({median})"
