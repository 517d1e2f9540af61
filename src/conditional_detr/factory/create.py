"""Create a new model by name."""

from collections.abc import Sequence
from typing import Any

from conditional_detr.config.parts import with_overrides
from conditional_detr.config.presets import preset
from conditional_detr.factory.build import DetectionModel, preprocessing_for
from conditional_detr.factory.imagenet import load_imagenet_weights


def create_model(
    name: str,
    num_classes: int = 91,
    pretrained_backbone: bool = True,
    class_names: Sequence[str] | None = None,
    category_ids: Sequence[int] | None = None,
    **overrides: Any,
) -> DetectionModel:
    """Create a new model by name.

    Parameters
    ----------
    name : one of `conditional_detr.config.PRESETS`, e.g. "conditional-detr-r50"
    num_classes : number of classes K, without a background class
    pretrained_backbone : load ImageNet weights, from the Hub or from an installed package; False = random weights
    class_names, category_ids : one value per class; default "0", "1", … and 0, 1, …
    overrides : fields of `ModelConfig`, e.g. ``num_queries=100``

    Raises
    ------
    ConfigError : unknown name or field, or invalid value
    UnavailableError : the pretrained weights are not available; random weights are never used in their place

    Examples
    --------
    >>> model = create_model("conditional-detr-tiny", num_classes=2, pretrained_backbone=False)
    >>> model.class_names
    ['0', '1']
    """
    chosen = preset(name)
    config = with_overrides(chosen.model, {"num_classes": num_classes, **overrides}, origin=f"create_model({name!r})")
    model = DetectionModel(config, preprocessing_for(config, chosen.imgsz), class_names, category_ids)
    if pretrained_backbone:
        load_imagenet_weights(model.backbone, config.backbone)
    return model
