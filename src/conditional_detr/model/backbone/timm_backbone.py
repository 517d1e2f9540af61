"""A timm network as the backbone of a detector: it turns images into feature maps."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn

from conditional_detr.errors import ConfigError, did_you_mean
from conditional_detr.model.backbone.frozen_norm import FROZEN_NORMS, fold_frozen_norms

# The stem and the first stage of a ResNet keep their ImageNet weights (released code of Conditional DETR and DETR).
FROZEN_PREFIXES = ("conv1.", "layer1.")

# Strides of the stages of the named models' networks, px. Those of other networks are found by building them, which takes long.
STRIDES = dict.fromkeys(("tf_efficientnet_lite0", "resnet18", "resnet50", "resnet101"), (2, 4, 8, 16, 32))


class Backbone(nn.Module):
    """A timm network with frozen BatchNorm that returns feature maps, the finest first.

    Every BatchNorm becomes an affine map with its stored statistics. Its epsilon and activation are kept.

    Parameters
    ----------
    name : name of a timm model that supports `features_only`
    strides : stride of each feature map, px, in ascending order; later stages are not built
    dilation : dilate the last stage instead of striding it, which halves its stride (DC5)

    Attributes
    ----------
    channels : number of channels of each feature map
    """

    def __init__(self, name: str, strides: Sequence[int], dilation: bool = False) -> None:
        super().__init__()
        stages = stages_of(name, strides, dilation)
        options = {"output_stride": strides[-1]} if dilation else {}
        try:
            body = feature_network(name, out_indices=stages, **options)
            self.channels: list[int] = body.feature_info.channels()
            self.body: nn.Module = freeze_batch_norm_2d(body)  # type: ignore[no-untyped-call]
            drop_unused(self.body)
            init_zero_gain_norms(self.body)
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            how = "dilated " if dilation else ""
            raise ConfigError(f"{name} cannot be a {how}backbone for images of any size: {reason}") from None
        fold_frozen_norms(self.body)
        for key, parameter in self.body.named_parameters():
            if key.startswith(FROZEN_PREFIXES):
                parameter.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        maps: list[Tensor] = self.body(images)
        return maps


def stages_of(name: str, strides: Sequence[int], dilation: bool) -> tuple[int, ...]:
    """Indices of the stages of a network that have these strides."""
    available = strides_of(name)
    undilated = [2 * stride for stride in strides] if dilation else list(strides)
    for stride in undilated:
        if stride not in available:
            raise ConfigError(f"{name} has no stage of stride {stride}; it has {', '.join(map(str, available))}")
    return tuple(available.index(stride) for stride in undilated)


def feature_network(name: str, **options: Any) -> Any:
    """Create a timm network that returns feature maps, with random weights."""
    check_network(name)
    return timm.create_model(name, pretrained=False, features_only=True, **options)


@cache
def strides_of(name: str) -> tuple[int, ...]:
    """Stride of each stage of a network, px, the finest first."""
    if (plain := name.split(".")[0]) in STRIDES:
        return STRIDES[plain]
    with torch.device("meta"):
        return tuple(feature_network(name).feature_info.reduction())


def check_network(name: str) -> None:
    """Raise `ConfigError` if timm has no network of this name. The message suggests the most similar name."""
    known = timm.list_models()
    if (plain := name.split(".")[0]) not in known:
        raise ConfigError(f"timm has no network {plain!r}. {did_you_mean(plain, known)}")


def init_zero_gain_norms(network: nn.Module) -> None:
    """Set the scale of every frozen norm with zero scale to 1/√n, in place, where n is the number of such norms.

    timm initialises the last norm of each residual branch with a scale of zero, which is then learned. A frozen scale is not
    learned, so a network with random weights would never use these branches. With 1/√n the variance grows by at most a factor
    of e over n branches.
    """
    scales = [dict(m.named_buffers())["weight"] for m in network.modules() if isinstance(m, FROZEN_NORMS)]
    silent = [scale for scale in scales if not scale.is_meta and not scale.any()]
    for scale in silent:
        scale.fill_(len(silent) ** -0.5)


def drop_unused(network: nn.Module) -> None:
    """Remove the modules that the output does not depend on, in place. timm builds and runs some unused stages.

    The gradient for a small image shows which modules are unused, independently of their names.
    """
    was_training = network.training
    features = network.eval()(torch.zeros(1, 3, 64, 64))
    torch.stack([each.sum() for each in features]).sum().backward()  # type: ignore[no-untyped-call]
    network.train(was_training)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            parameters = list(child.parameters())
            if parameters and all(p.grad is None for p in parameters):
                setattr(parent, name, nn.Identity())
    network.zero_grad(set_to_none=True)
