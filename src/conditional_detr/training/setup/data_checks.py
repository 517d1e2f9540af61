"""Checks of the data before the first step, and the lines that are printed at the start."""

from conditional_detr.config.run import RunConfig
from conditional_detr.data.index import SplitIndex, match_categories
from conditional_detr.data.splits.together import class_differences, unlabelled_classes
from conditional_detr.errors import DataError
from conditional_detr.factory.build import DetectionModel


def check_data(train: SplitIndex, valid: SplitIndex, strict: bool, max_bad: float) -> None:
    """Find problems of the data that would otherwise only show during training.

    Raises
    ------
    DataError : there are no boxes to train on, too many images cannot be used, or the splits have no class in common. With
        `strict`, any problem
    """
    if not len(train.labels):
        raise DataError(f"{train.file} has no usable box: there is nothing to train on. " + "; ".join(train.report))
    match_categories([c.name for c in train.categories], [c.id for c in train.categories], valid.categories, str(valid.file))
    for index in (train, valid):
        if strict and index.report:
            found = "; ".join(line.rsplit(": ", 1)[0] for line in index.report)
            raise DataError(
                f"{index.file} has problems (stopped by --strict): {found}. `cdetr doctor --fix` writes a clean copy"
            )
        bad = index.missing
        if len(bad) > max_bad * (len(bad) + len(index)):
            raise DataError(
                f"{len(bad)} of {len(bad) + len(index)} images listed in {index.file} cannot be used, more than "
                f"{100 * max_bad:g}% (--max-bad): {', '.join(bad[:3])}. `cdetr doctor` lists them all"
            )


def opening(train: SplitIndex, valid: SplitIndex, model: DetectionModel, config: RunConfig, where: str) -> list[str]:
    """Lines to print at the start: the data, problems found in them, and the model. `where` names device and precision."""
    lines = []
    for name, index in (("train", train), ("valid", valid)):
        lines += [f"{name}: {index.summary}", *(f"  {index.file}: {line}" for line in index.report)]
    differences = class_differences({"train": train.summary.objects, "valid": valid.summary.objects})
    if valid.labelled is not None:
        differences += unlabelled_classes("valid", valid.labelled_names, train.summary.objects)
    lines += [f"  warning: {finding.message}" for finding in differences]
    if not len(valid.labels):
        lines.append(
            f"  warning: {valid.file} has no object: no AP can be computed, so the last epoch counts as the best, and no score "
            "thresholds are chosen"
        )
    most = int((train.first[1:] - train.first[:-1]).max())
    if most > model.config.num_queries:
        lines.append(
            f"  warning: an image has {most} objects, more than the model's {model.config.num_queries} queries can find. "
            f"Use --set model.num_queries={most + most // 2}"
        )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines.append(
        f"model: {config.model}, {trainable / 1e6:.1f} M trainable parameters, image size {config.imgsz} px (shorter side), "
        f"{where}, recipe {config.recipe}"
    )
    return lines
