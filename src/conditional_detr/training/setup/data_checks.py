"""What must hold of the data before the first step."""

from conditional_detr.config.run import RunConfig
from conditional_detr.data.index import SplitIndex, match_categories
from conditional_detr.errors import DataError
from conditional_detr.factory.build import DetectionModel


def check_data(train: SplitIndex, valid: SplitIndex, strict: bool, max_bad: float) -> None:
    """What would otherwise be noticed after an hour.

    Raises
    ------
    DataError : nothing to learn, too many images that cannot be used, no class in common; with `strict` any fault
    """
    if not len(train.labels):
        raise DataError(f"{train.file} has no usable box: there is nothing to learn. " + "; ".join(train.report))
    match_categories([c.name for c in train.categories], [c.id for c in train.categories], valid.categories, str(valid.file))
    for index in (train, valid):
        if strict and index.report:
            raise DataError(f"{index.file} has faults (--strict): " + "; ".join(index.report))
        bad = index.missing
        if len(bad) > max_bad * (len(bad) + len(index)):
            raise DataError(
                f"{len(bad)} of {len(bad) + len(index)} images that {index.file} lists cannot be used, more than "
                f"{max_bad:.0%} (--max-bad): {', '.join(bad[:3])}. `cdetr doctor` names them all"
            )


def opening(train: SplitIndex, valid: SplitIndex, model: DetectionModel, config: RunConfig, where: str) -> list[str]:
    """The lines that say what is about to be trained, on what and where."""
    lines = [
        f"data: {len(train)} images, {len(train.labels)} boxes, {len(train.categories)} classes; "
        f"{len(valid)} images to validate on",
    ]
    for index in (train, valid):
        lines += [f"  {index.file}: {line}" for line in index.report]
    most = int((train.first[1:] - train.first[:-1]).max())
    if most > model.config.num_queries:
        lines.append(
            f"  an image has {most} objects, more than the model's {model.config.num_queries} queries can find: "
            f"--set model.num_queries={most + most // 2}"
        )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines.append(
        f"model: {config.model}, {trainable / 1e6:.1f} M trainable parameters, shorter side {config.imgsz} px, {where}, "
        f"recipe {config.recipe}"
    )
    return lines
