"""The initial model of a run."""

import torch

from conditional_detr.config.messages import updated
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.data.index import SplitIndex
from conditional_detr.errors import ConfigError, RunError, shortened_list
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.model.heads.box import RefinedBoxHead
from conditional_detr.weights.discovery import load_model, with_new_class_head
from conditional_detr.weights.recognise import find_checkpoint, shipped

# Parameters with a row for each query.
PER_QUERY = {"object_query", "reference_points.points", "reference_points.content.weight"}
# Field → values of a simpler model and of the model that can start from its weights.
EXTENSIONS = {
    "box_refinement": (False, True),
    "cross_attention": ("conditional", "box_conditional"),
    "reference_points": ("encoder", "encoder_boxes"),
}


def build_model(config: RunConfig, data: SplitIndex) -> tuple[DetectionModel, list[str]]:
    """Build the initial model of a run, with the classes of its data.

    Returns
    -------
    the model, and lines to print about its weights

    Raises
    ------
    ConfigError : the settings ask for changes of the model that are not possible
    """
    names, ids = [c.name for c in data.categories], [c.id for c in data.categories]
    if "num_classes" in config.model_overrides:
        raise ConfigError(f"model.num_classes cannot be set: {data.file} has {len(names)} classes")
    if find_checkpoint(config.model) is None and (source := config.training.init_from):
        model = create_model(config.model, len(names), False, names, ids, **config.model_overrides)
        other = load_model(source)
        has_classes = not other.config.patches
        same = take_weights(model, other if has_classes else with_new_class_head(other, len(names)), source, has_classes)
        whose = f"{source}, bundled with the package" if source in shipped() else source
        was = "other classes" if has_classes else "pre-trained without labels"
        classes = "same classes, so the class head is kept" if same else f"{was}, so the class head is newly initialised"
        boxes = "; its boxes start from points, so the box heads are newly initialised" if starts_boxes(model, other) else ""
        notes = [f"initial weights: {whose}; {classes}{boxes}"]
    elif find_checkpoint(config.model) is None:
        model = create_model(config.model, len(names), config.pretrained_backbone, names, ids, **config.model_overrides)
        start = (
            "ImageNet weights; all other weights are random" if config.pretrained_backbone else "random weights, as requested"
        )
        notes = [f"backbone {model.config.backbone}: {start}"]
    elif config.model_overrides:
        raise ConfigError(f"{config.model} is a trained model: --set model.… (model_overrides) cannot change its architecture")
    elif config.training.init_from:
        raise ConfigError(
            f"{config.model} is a trained model, so init_from = {config.training.init_from!r} has no effect: give only one"
        )
    else:
        model = load_model(config.model)
        had = model.class_names
        if model.config.patches:
            model = with_new_class_head(model, len(names))
            notes = [f"{config.model} was pre-trained without labels: the class head is newly initialised"]
        elif had == names:
            notes = [f"fine-tuning {config.model}, same classes, so the class head is kept"]
        else:
            model = with_new_class_head(model, len(names))
            notes = [
                f"fine-tuning {config.model}, other classes ({len(had)} before, {len(names)} now), so the class head "
                "is newly initialised"
            ]
        model.class_names, model.category_ids = names, ids
    if config.imgsz != model.preprocessor.imgsz:
        model.preprocessor = updated(model.preprocessor, {"imgsz": config.imgsz, "max_size": 0}, "train")
    if config.training.tile:
        model.preprocessor = updated(model.preprocessor, {"tile": config.training.tile}, "train")
    return model, notes


def differing_fields(model: ModelConfig, other: ModelConfig) -> list[str]:
    """Fields in which two models differ so that their weights do not fit each other.

    Differences in the number of classes or of queries do not count, nor do `EXTENSIONS` of the other model.
    """
    return [
        field
        for field, value in model.model_dump().items()
        if field not in ("num_classes", "num_queries")
        and getattr(other, field) != value
        and EXTENSIONS.get(field) != (getattr(other, field), value)
    ]


def starts_boxes(model: DetectionModel, source: DetectionModel) -> bool:
    """Whether a model predicts boxes from reference boxes, and the source of its weights from reference points."""
    return model.reference_points.gives_boxes and not source.reference_points.gives_boxes


@torch.no_grad()
def take_weights(model: DetectionModel, source: DetectionModel, name: str, has_classes: bool = True) -> bool:
    """Copy the weights of another model into a new model, in place. The number of queries may differ.

    The class head is only copied if both models have the same class names in the same order. Modules that only the new model
    has start as they are: a box head that refines boxes starts from the shared head of the other model. Its first layer starts
    anew if only the new model has references with a size.

    Parameters
    ----------
    model : the new model
    source : model to copy the weights from
    name : name of `source`, for error messages
    has_classes : whether `source` has been trained on classes

    Returns
    -------
    whether the classes are the same

    Raises
    ------
    ConfigError : the architectures differ
    """
    if differ := differing_fields(model.config, source.config):
        raise ConfigError(
            f"init_from = {name!r} has another architecture: {', '.join(differ)} differ. Give the model the same values"
        )
    same = has_classes and model.class_names == source.class_names
    state = {key: value for key, value in source.state_dict().items() if same or not key.startswith("class_head.")}
    if model.config.box_refinement and not source.config.box_refinement:
        state = {key: value for key, value in state.items() if not key.startswith("box_head.")}
        assert isinstance(model.box_head, RefinedBoxHead)
        model.box_head.start_from(source.box_head)
    nearest = torch.arange(model.config.num_queries) * source.config.num_queries // model.config.num_queries
    for key in state.keys() & PER_QUERY:  # nearest by index, that is, by the order of their reference points
        state[key] = state[key][nearest]
    model.load_state_dict(state, strict=False)
    if starts_boxes(model, source):
        assert isinstance(model.box_head, RefinedBoxHead)
        model.box_head.keep_references()  # the first layer has learned to place boxes at points
    return same


def check_classes(model: DetectionModel, train: SplitIndex) -> None:
    """Check that a resumed run has the same classes as before.

    Raises
    ------
    RunError : the classes differ
    """
    had, now = list(zip(model.category_ids, model.class_names, strict=True)), [(c.id, c.name) for c in train.categories]
    if had != now:
        raise RunError(
            f"the classes of {train.file} differ from those at the start of the run: then {shortened_list(map(str, had))}; now "
            f"{shortened_list(map(str, now))}. Start a new run in another folder"
        )
