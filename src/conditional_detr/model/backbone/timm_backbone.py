"""A timm network as a detector's backbone: images in, one feature map out."""

from functools import cache
from typing import Any

import timm
import torch
from jaxtyping import Float
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.nn import functional as F

from conditional_detr.errors import ConfigError, did_you_mean
from conditional_detr.model.backbone.frozen_norm import FROZEN_NORMS, fold_frozen_norms
from conditional_detr.model.precision import autocast_on_cpu, float32_region

# The stem and the first stage of the ResNets stay as ImageNet left them (Conditional DETR and DETR, released code).
FROZEN_PREFIXES = ("conv1.", "layer1.")


class Backbone(nn.Module):
    """One feature map of a timm network whose BatchNorm is frozen.

    Every BatchNorm becomes an affine map by its stored statistics, with that layer's own epsilon and activation.

    Parameters
    ----------
    name : a timm model that offers `features_only`
    stride : pixels a cell of the deepest stage that is used, 32 for a whole ResNet; later stages are not built
    dilation : that stage is dilated instead of strided (DC5), which halves its stride
    finer : a cell also holds the 2 × 2 cells of the stage before that lie in it, side by side: where things end within it
    """

    def __init__(self, name: str, stride: int, dilation: bool = False, finer: bool = False) -> None:
        super().__init__()
        strides = strides_of(name)
        if stride not in strides:
            raise ConfigError(f"{name} has no stage of stride {stride}; it has {', '.join(map(str, strides))}")
        stage = strides.index(stride)
        if finer and (dilation or stride // 2 not in strides[:stage][-1:]):
            raise ConfigError(
                "finer = true needs a stage before the one that is used, of half its stride, undilated. Else leave it off"
            )
        self.stride = stride // 2 if dilation else stride
        options = {"output_stride": self.stride} if dilation else {}
        try:
            body = feature_network(name, out_indices=(stage - 1, stage) if finer else (stage,), **options)
            *before, channels = body.feature_info.channels()
            self.channels: int = channels + 4 * sum(before)
            self.body: nn.Module = freeze_batch_norm_2d(body)  # type: ignore[no-untyped-call]
            drop_unused(self.body)
            init_zero_gain_norms(self.body)
            if finer:
                self(torch.zeros(1, 3, 2 * stride + 1, 3 * stride + 1))  # both stages must round odd sizes alike
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            how = "dilated " if dilation else ""
            raise ConfigError(f"{name} cannot be a {how}backbone for images of any size: {reason}") from None
        fold_frozen_norms(self.body)
        for key, parameter in self.body.named_parameters():
            if key.startswith(FROZEN_PREFIXES):
                parameter.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        *before, features = self.body(images)
        return torch.cat([features, *map(space_to_depth, before)], dim=1)


def space_to_depth(finer: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 4*C _ _"]:
    """The 2 × 2 cells of a map at half the stride in one; at odd sizes the last ones are zeros.

    A convolution, which rounds odd sizes as the stage after does, and which exporters know for any size.
    """
    if autocast_on_cpu(finer):
        with float32_region(finer):
            return space_to_depth(finer.float())
    places = torch.eye(4, dtype=finer.dtype, device=finer.device).view(4, 1, 2, 2)
    return F.conv2d(F.pad(finer, (0, 1, 0, 1)), places.repeat(finer.shape[1], 1, 1, 1), stride=2, groups=finer.shape[1])


def feature_network(name: str, **options: Any) -> Any:
    """timm's network that returns feature maps, with random weights."""
    check_network(name)
    return timm.create_model(name, pretrained=False, features_only=True, **options)


@cache
def strides_of(name: str) -> tuple[int, ...]:
    """Pixels a cell of each stage of a network, the finest first."""
    with torch.device("meta"):
        return tuple(feature_network(name).feature_info.reduction())


def check_network(name: str) -> None:
    """timm must know it; an unknown name is answered with the nearest."""
    known = timm.list_models()
    if (plain := name.split(".")[0]) not in known:
        raise ConfigError(f"timm has no network {plain!r}. {did_you_mean(plain, known)}")


def init_zero_gain_norms(network: nn.Module) -> None:
    """Give every frozen norm whose scale is zero one of 1/√n, in place, n being their number.

    timm ends each residual branch with a scale of zero, to be learned. A frozen one is not: a network that starts from random
    weights would lose all of its branches for good. With 1/√n the variance grows by no more than e over n branches.
    """
    scales = [dict(m.named_buffers())["weight"] for m in network.modules() if isinstance(m, FROZEN_NORMS)]
    silent = [scale for scale in scales if not scale.is_meta and not scale.any()]
    for scale in silent:
        scale.fill_(len(silent) ** -0.5)


def drop_unused(network: nn.Module) -> None:
    """Take out, in place, the stages that the output does not depend on: timm builds and runs some of them all the same.

    Which ones these are is seen from the gradient of a small image, not guessed from names.
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
