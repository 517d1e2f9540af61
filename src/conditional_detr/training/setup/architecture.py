"""Rules for the architecture of a new model, and for the weights that it starts from."""

from collections.abc import Callable

from conditional_detr.config.parts import unused_fields
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import ModelConfig
from conditional_detr.model.backbone.timm_backbone import strides_of
from conditional_detr.training.setup.choices import Choice, Context, model_of
from conditional_detr.training.setup.initial_weights import differing_fields
from conditional_detr.weights.description import read_configs, read_description
from conditional_detr.weights.discovery import read_checkpoint
from conditional_detr.weights.recognise import SHIPPED, find_checkpoint, shipped

# Fields that rules choose, so that they fit the model whose weights are taken.
CHOSEN = {"box_refinement", "cross_attention", "reference_points", "neck", "pixel_aligned_positions"}
# bundled models to start from if none was trained on the same classes; the first that fits the architecture is used
USUAL_STARTS = ("conditional-detr-tiny-objects", "conditional-detr-tiny-shapes")


def as_source_has(context: Context, field: str, rule: Callable[[ModelConfig], Choice | None]) -> Choice | None:
    """Choose a field of a new model: the value of the model whose weights initialise it, otherwise the choice of the rule.

    This model is known before if the user named it, or if a bundled one was trained on the same classes.
    """
    model = model_of(context.config)
    source = context.config.training.init_from or trained_on_same_classes(context.config, context.sources.class_names)
    path = find_checkpoint(source) if source else None
    if path is None:
        return rule(model)
    other = read_checkpoint(path).config
    if len(other.strides) != len(model.strides):
        return rule(model)  # the weights do not fit, whatever this field is
    had = getattr(other, field)
    return None if had == getattr(model, field) else Choice(f"model.{field}", had, f"as in {source} (initial weights)")


def reference_points(model: ModelConfig) -> Choice | None:
    """Choose references from the encoder's output; None if the model has none, or not the paper's variant of them."""
    if (
        model.reference_points != "predicted"
        or "spatial_query" in unused_fields(model)
        or "reference_points" in unused_fields(model)
    ):
        return None
    if model.box_refinement:
        return Choice("model.reference_points", "encoder_boxes", "queries start from boxes that the encoder's output predicts")
    return Choice("model.reference_points", "encoder", "queries start at likely object centres, which speeds up training")


def box_refinement(model: ModelConfig) -> Choice | None:
    """Refine boxes from layer to layer; None if the model does, on several levels, or if the decoder is not the paper's."""
    single = len(model.strides) == 1
    if model.box_refinement or not model.box_offset or not single or model.cross_attention != "conditional":
        return None
    return Choice("model.box_refinement", True, "each decoder layer improves the boxes of the one before")


def cross_attention(model: ModelConfig) -> Choice | None:
    """Tell the cross-attention the boxes of the layer before; None if there are none, or if it is not the paper's."""
    if not model.box_refinement or model.cross_attention != "conditional":
        return None
    return Choice("model.cross_attention", "box_conditional", "heads see how far a cell lies from the sides of the box before")


def neck(model: ModelConfig) -> Choice | None:
    """Add the features at half the stride; None if the backbone has none, at the paper's stride, or with another neck."""
    other, stride = len(model.strides) > 1 or model.neck != "last", model.finest_stride
    if other or model.dilation or stride >= 32 or stride // 2 not in strides_of(model.backbone):
        return None
    return Choice("model.neck", "space_to_depth", "features of half the stride show where in a cell an object ends")


def pixel_aligned_positions(model: ModelConfig) -> Choice:
    """Compute the positions of cells from pixels."""
    return Choice("model.pixel_aligned_positions", True, "positions in the feature map do not depend on the image size")


def trained_on_same_classes(config: RunConfig, names: list[str]) -> str:
    """Name of a bundled model with these classes that differs from the new model at most in `CHOSEN`; "" if there is none."""
    for name in shipped() if config.pretrained_backbone else []:
        same = read_description(SHIPPED / name)["class_names"] == names
        if same and set(differing_fields(model_of(config), read_configs(SHIPPED / name)[0])) <= CHOSEN:
            return name
    return ""


def beginning(config: RunConfig, names: list[str]) -> Choice | None:
    """Choose a bundled model to take weights from, preferably one trained on the same classes.

    None if no bundled model has the same architecture, or if the user asked for random weights.
    """
    model = model_of(config)
    fitting = [name for name in shipped() if not differing_fields(model, read_configs(SHIPPED / name)[0])]
    if not fitting or not config.pretrained_backbone:
        return None
    knowing = [name for name in fitting if read_description(SHIPPED / name)["class_names"] == names]
    usual = [name for name in USUAL_STARTS if name in fitting]
    return Choice("init_from", [*knowing, *usual, *fitting][0], "bundled with the package")
