"""What a run begins with: its settings, its model, and what must hold of its data before the first step."""

from typing import Any, Literal

import torch

from conditional_detr.config import PRESETS, RECIPES, ModelConfig, RunConfig, build, recipe_of, updated
from conditional_detr.data.clean import some
from conditional_detr.data.coco import CocoIndex, match_categories
from conditional_detr.errors import ConfigError, DataError, RunError, did_you_mean
from conditional_detr.factory import DetectionModel, create_model
from conditional_detr.weights.source import find_checkpoint, load_model, read_checkpoint, shipped, with_new_class_head


def resolve(name: str, recipe: str | None, recipe_values: dict[str, Any], values: dict[str, Any]) -> RunConfig:
    """All settings of a run: the model's, changed by the recipe's, changed by what was given.

    A model name says for which size and recipe it is made, a checkpoint for which size; its recipe is that of the model
    name with its backbone.
    """
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"there is no recipe {recipe!r}. {did_you_mean(recipe, RECIPES)}")
    if recipe is None or "imgsz" not in values:  # a run that goes on has both written down
        imgsz, usual = made_for(name)
        values, recipe = {"imgsz": imgsz, **values}, recipe or usual
    base = RECIPES[recipe]
    lr = recipe_values.get("lr")
    if isinstance(lr, int | float):
        recipe_values = {"lr_backbone": base.lr_backbone * lr / base.lr if lr > 0 else base.lr_backbone, **recipe_values}
    training = updated(base, recipe_values, origin="train")
    return build(RunConfig, {**values, "recipe": recipe, "training": training}, origin="train")


def made_for(source: str) -> tuple[int, Literal["paper", "fast"]]:
    """The size in px and the recipe that a source is made for, without building it."""
    path = find_checkpoint(source)
    if path is None:
        return PRESETS[source].imgsz, PRESETS[source].recipe
    checkpoint = read_checkpoint(path)
    return checkpoint.preprocessor.imgsz, recipe_of(checkpoint.config)


def build_model(config: RunConfig, data: CocoIndex) -> tuple[DetectionModel, list[str]]:
    """The model that a run begins with, for the classes of its data, and what is to be said of it."""
    names, ids = [c.name for c in data.categories], [c.id for c in data.categories]
    if "num_classes" in config.model_overrides:
        raise ConfigError(f"model.num_classes cannot be set: {data.file} has {len(names)} classes")
    if find_checkpoint(config.model) is None and (source := config.training.start):
        model = create_model(config.model, len(names), False, names, ids, **config.model_overrides)
        same = take_weights(model, load_model(source), source)
        whose = f"{source}, which comes with the package" if source in shipped() else source
        classes = "its classes are these" if same else "other classes, so the class head starts anew"
        notes = [f"weights: those of {whose}; {classes}"]
    elif find_checkpoint(config.model) is None:
        model = create_model(config.model, len(names), config.pretrained_backbone, names, ids, **config.model_overrides)
        start = "ImageNet weights" if config.pretrained_backbone else "random weights, as asked for"
        notes = [f"backbone {model.config.backbone}: {start}"]
    elif config.model_overrides:
        raise ConfigError(f"{config.model} is a trained model: its parts cannot be changed (--set model.…, model_overrides)")
    else:
        model = load_model(config.model)
        had = model.class_names
        if had == names:
            notes = [f"going on from {config.model}, same classes"]
        else:
            model = with_new_class_head(model, len(names))
            notes = [
                f"going on from {config.model}: other classes ({len(had)} before, {len(names)} now), so the class head "
                "starts anew"
            ]
        model.class_names, model.category_ids = names, ids
    if config.imgsz != model.preprocessor.imgsz:
        model.preprocessor = updated(model.preprocessor, {"imgsz": config.imgsz, "max_size": 0}, "train")
    return model, notes


def differing_parts(model: ModelConfig, other: ModelConfig) -> list[str]:
    """Fields for which one's weights are not the other's; the numbers of classes and of queries are none."""
    return [
        field
        for field, value in model.model_dump().items()
        if field not in ("num_classes", "num_queries") and value != getattr(other, field)
    ]


@torch.no_grad()
def take_weights(model: DetectionModel, source: DetectionModel, name: str) -> bool:
    """Give a new model another one's weights, in place; it may have more or fewer queries.

    Its class head stays, unless its classes have the same names in the same order: that is returned.

    Raises
    ------
    ConfigError : they are not made of the same parts
    """
    if differ := differing_parts(model.config, source.config):
        raise ConfigError(
            f"start = {name!r} has other parts than the model: {', '.join(differ)} differ. Give it the same ones, or no start"
        )
    same = model.class_names == source.class_names
    state = {key: value for key, value in source.state_dict().items() if same or not key.startswith("class_head.")}
    places = torch.arange(model.config.num_queries) * source.config.num_queries // model.config.num_queries
    state["object_query"] = state["object_query"][places]  # by their order: that of the places that they look from
    model.load_state_dict(state, strict=False)
    return same


def check_classes(model: DetectionModel, train: CocoIndex) -> None:
    """A run goes on with the classes that it began with.

    Raises
    ------
    RunError
    """
    had, now = list(zip(model.category_ids, model.class_names, strict=True)), [(c.id, c.name) for c in train.categories]
    if had != now:
        raise RunError(
            f"the classes of {train.file} are not those that the run began with: then {some(map(str, had))}; now "
            f"{some(map(str, now))}. Begin in another folder"
        )


def check_data(train: CocoIndex, valid: CocoIndex, strict: bool, max_bad: float) -> None:
    """What would otherwise be noticed after an hour.

    Raises
    ------
    DataError : nothing to learn, too many pictures that cannot be used, no class in common; with `strict` any fault
    """
    if not len(train.labels):
        raise DataError(f"{train.file} has no usable box: there is nothing to learn. " + "; ".join(train.report))
    match_categories([c.name for c in train.categories], [c.id for c in train.categories], valid.categories, str(valid.file))
    for index in (train, valid):
        if strict and index.report:
            raise DataError(f"{index.file} has faults (--strict): " + "; ".join(index.report))
        bad = index.lost
        if len(bad) > max_bad * (len(bad) + len(index)):
            raise DataError(
                f"{len(bad)} of {len(bad) + len(index)} pictures that {index.file} lists cannot be used, more than "
                f"{max_bad:.0%} (--max-bad): {', '.join(bad[:3])}. `cdetr doctor` names them all"
            )


def opening(train: CocoIndex, valid: CocoIndex, model: DetectionModel, config: RunConfig, where: str) -> list[str]:
    """The lines that say what is about to be trained, on what and where."""
    lines = [
        f"data: {len(train)} pictures, {len(train.labels)} boxes, {len(train.categories)} classes; "
        f"{len(valid)} pictures to validate on",
    ]
    for index in (train, valid):
        lines += [f"  {index.file}: {line}" for line in index.report]
    most = int((train.first[1:] - train.first[:-1]).max())
    if most > model.config.num_queries:
        lines.append(
            f"  a picture has {most} objects, more than the model's {model.config.num_queries} queries can find: "
            f"--set model.num_queries={most + most // 2}"
        )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lines.append(
        f"model: {config.model}, {trainable / 1e6:.1f} M trainable parameters, shorter side {config.imgsz} px, {where}, "
        f"recipe {config.recipe}"
    )
    return lines
