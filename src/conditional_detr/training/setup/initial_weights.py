"""The model that a run begins with."""

import torch

from conditional_detr.config.messages import updated
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.data.index import SplitIndex
from conditional_detr.errors import ConfigError, RunError, shortened_list
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.weights.discovery import find_checkpoint, load_model, shipped, with_new_class_head


def build_model(config: RunConfig, data: SplitIndex) -> tuple[DetectionModel, list[str]]:
    """The model that a run begins with, for the classes of its data, and what is to be said of it."""
    names, ids = [c.name for c in data.categories], [c.id for c in data.categories]
    if "num_classes" in config.model_overrides:
        raise ConfigError(f"model.num_classes cannot be set: {data.file} has {len(names)} classes")
    if find_checkpoint(config.model) is None and (source := config.training.init_from):
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


def differing_fields(model: ModelConfig, other: ModelConfig) -> list[str]:
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
    if differ := differing_fields(model.config, source.config):
        raise ConfigError(
            f"init_from = {name!r} has other parts than the model: {', '.join(differ)} differ. Give the model the same"
        )
    same = model.class_names == source.class_names
    state = {key: value for key, value in source.state_dict().items() if same or not key.startswith("class_head.")}
    nearest = torch.arange(model.config.num_queries) * source.config.num_queries // model.config.num_queries
    state["object_query"] = state["object_query"][nearest]  # by their order: that of their reference points
    model.load_state_dict(state, strict=False)
    return same


def check_classes(model: DetectionModel, train: SplitIndex) -> None:
    """A run goes on with the classes that it began with.

    Raises
    ------
    RunError
    """
    had, now = list(zip(model.category_ids, model.class_names, strict=True)), [(c.id, c.name) for c in train.categories]
    if had != now:
        raise RunError(
            f"the classes of {train.file} are not those that the run began with: then {shortened_list(map(str, had))}; now "
            f"{shortened_list(map(str, now))}. Begin in another folder"
        )
