"""Convolutions followed by a frozen BatchNorm, folded into one operation for faster training with the same result."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import FrozenBatchNormAct2d
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops.misc import FrozenBatchNorm2d

from conditional_detr.model.backbone.depthwise import Depthwise, Form, Pair, is_depthwise, trains_on_cpu, weight_gradient_of
from conditional_detr.model.precision import autocast_on_cpu, float32_region

FROZEN_NORMS = (FrozenBatchNorm2d, FrozenBatchNormAct2d)


class FoldedConv2d(nn.Conv2d):
    """A convolution that also applies the affine map of the frozen norm that follows it.

    ``s·(w∗x) + (b − s·mean) = (s·w)∗x + (b − s·mean)`` with ``s = γ / sqrt(var + ε)``. This takes one pass over the feature map
    instead of three, also in the backward pass. The weight is stored unscaled, so checkpoints do not change.

    Parameters
    ----------
    convolution : a convolution without bias; its weight is shared
    norm : the frozen norm; it remains a module of the network, and only its buffers are read here
    """

    def __init__(self, convolution: nn.Conv2d, norm: nn.Module) -> None:
        super().__init__(
            convolution.in_channels, convolution.out_channels, convolution.kernel_size,  # type: ignore[arg-type]
            convolution.stride, convolution.padding, convolution.dilation, convolution.groups,  # type: ignore[arg-type]
            bias=False, device="meta",
        )  # fmt: skip
        self.weight = convolution.weight
        self.pads_same, self.copies_to_pad = isinstance(convolution, Conv2dSame), False
        self.__dict__["norm"] = norm  # not registered as a child: the norm keeps its name in the state dict

    def forward(self, x: Tensor) -> Tensor:
        if self.groups > 1 and autocast_on_cpu(x):
            with float32_region(x):
                return self._convolve(x.float())
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        norm = self.__dict__["norm"]
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = self.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        zeros, padding = (0, 0), self.padding
        keeps_map = self.dilation == (1, 1) and x.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.pads_same and keeps_map and not self.copies_to_pad:
            weight, zeros, padding = self._with_same_padding(weight, x.shape[-2:])
        elif self.pads_same:
            x, padding = self._pad_same(x), (0, 0)
        form = Form(self.stride, padding, self.dilation)  # type: ignore[arg-type]
        if trains_on_cpu(x) and is_depthwise(self) and (gradient := weight_gradient_of(weight.shape, form, zeros)):
            return Depthwise.apply(x, weight, form, gradient) + bias[:, None, None]
        return F.conv2d(x, weight, bias, *form, self.groups)

    def _with_same_padding(self, weight: Tensor, size: torch.Size) -> tuple[Tensor, Pair, Pair]:
        """Kernel and symmetric padding that replace "SAME" padding, in which the end may get one row or column more.

        A kernel with a row of zeros before its first row gives the same result with equal padding on both sides. This saves a
        copy of the feature map.

        Returns
        -------
        the kernel, the number of its first (rows, columns) that are zero, and the padding
        """
        total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, self.kernel_size, self.stride, strict=True)]
        zeros = (total[0] % 2, total[1] % 2)
        return F.pad(weight, (zeros[1], 0, zeros[0], 0)), zeros, (-(-total[0] // 2), -(-total[1] // 2))

    def _pad_same(self, x: Tensor) -> Tensor:
        """Apply "SAME" padding, which depends on the input size.

        During export, sizes are symbolic. The padding is then a constant, which is exact because the preprocessor pads images
        to multiples of the stride.
        """
        if not is_exporting():
            return pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        total = [max((k - 1) * d + 1 - s, 0) for k, s, d in zip(self.kernel_size, self.stride, self.dilation, strict=True)]
        top, left = (t // 2 for t in total)
        return F.pad(x, (left, total[1] - left, top, total[0] - top))


@contextmanager
def copies_to_pad(network: nn.Module) -> Iterator[None]:
    """Context manager in which no kernel gets zeros, so that operations can be counted."""
    convolutions = [module for module in network.modules() if isinstance(module, FoldedConv2d)]
    for convolution in convolutions:
        convolution.copies_to_pad = True
    try:
        yield
    finally:
        for convolution in convolutions:
            convolution.copies_to_pad = False


def is_exporting() -> bool:
    """Whether the model is being exported. torch 2.6 cannot distinguish this from compiling."""
    is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(is_exporting())


class FoldedNorm(nn.Module):
    """The rest of a folded norm: its buffers, which the convolution and checkpoints use, and its activation."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.eps = norm.eps
        for name, buffer in norm.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.act = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


def fold_frozen_norms(network: nn.Module) -> None:
    """Fold every frozen norm that directly follows a convolution, in place.

    A small image is sent through the network to detect which norm follows which convolution, independently of module names.
    """
    producers: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[nn.Module, nn.Module] = {}

    def note(convolution: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(convolution, nn.Conv2d)
        producers[id(output)] = (convolution, output)

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        convolution, output = producers.get(id(inputs[0]), (None, None))
        if convolution is not None and output is inputs[0] and convolution.bias is None:
            pairs[convolution] = norm

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(look) for m in network.modules() if isinstance(m, FROZEN_NORMS)]
    was_training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64, device=next(network.parameters()).device))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    norms = {norm: FoldedNorm(norm) for norm in pairs.values()}
    exchanged = {conv: FoldedConv2d(conv, norms[norm]) for conv, norm in pairs.items()} | norms  # type: ignore[arg-type]
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in exchanged:
                setattr(parent, name, exchanged[child])
