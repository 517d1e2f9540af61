"""Depthwise convolutions with a backward pass that is fast on the CPU. `python benchmarks/backbone_step.py` compares."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

Pair = tuple[int, int]
FAST = 3  # kernel size up to which oneDNN has a fast gradient of the weights


class Form(NamedTuple):
    """How a convolution moves over its input, in the order of `conv2d`. All values are (vertical, horizontal)."""

    stride: Pair
    padding: Pair
    dilation: Pair


WeightGradient = Callable[
    [Tensor, Tensor, torch.Size, Form], Tensor
]  # (input, gradient of the output, shape of the weight, form)


def is_depthwise(convolution: nn.Conv2d) -> bool:
    """Whether each channel is convolved on its own."""
    return 1 < convolution.groups == convolution.in_channels == convolution.out_channels


def trains_on_cpu(x: Tensor) -> bool:
    """Whether a backward pass on the CPU follows."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and not torch.compiler.is_compiling()


def weight_gradient_of(shape: torch.Size, form: Form, zeros: Pair = (0, 0)) -> WeightGradient | None:
    """A gradient of the weights that is faster than oneDNN's; None if oneDNN's is fast, or ours does not fit.

    Parameters
    ----------
    shape : of the weight
    form : how the convolution moves
    zeros : number of first rows and columns of the kernel that are zero and need no gradient
    """
    kernel = (shape[-2], shape[-1])
    if form.dilation == (1, 1):
        own = [k - zero for k, zero in zip(kernel, zeros, strict=True)]
        fits = min(own) >= FAST and max(kernel) > FAST
        return (partial(by_blocks, zeros=zeros) if any(zeros) else by_blocks) if fits else None
    keeps_size = form.padding == tuple(d * (k // 2) for d, k in zip(form.dilation, kernel, strict=True))
    return by_taps if keeps_size and form.stride == (1, 1) and all(k % 2 for k in kernel) else None


class Depthwise(torch.autograd.Function):
    """(input, weight, form, gradient of the weights) → a depthwise convolution."""

    @staticmethod
    def forward(ctx, x, weight, form, weight_gradient):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.form, ctx.weight_gradient = form, weight_gradient
        return F.conv2d(x, weight, None, form.stride, form.padding, form.dilation, groups=x.shape[1])

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        form, of_x, of_weight = ctx.form, None, None
        if ctx.needs_input_grad[0] and ctx.weight_gradient is by_taps:  # correlation with the flipped kernel
            of_x = F.conv2d(gradient, weight.flip(2, 3), None, 1, form.padding, form.dilation, groups=x.shape[1])
        elif ctx.needs_input_grad[0]:
            of_x = conv2d_input(  # type: ignore[no-untyped-call]
                x.shape, weight, gradient, form.stride, form.padding, form.dilation, groups=x.shape[1]
            )
        if ctx.needs_input_grad[1]:
            of_weight = ctx.weight_gradient(x, gradient, weight.shape, form).to(weight.dtype)
        return of_x, of_weight, None, None


def by_blocks(x: Tensor, gradient: Tensor, shape: torch.Size, form: Form, zeros: Pair = (0, 0)) -> Tensor:
    """The gradient of a large kernel, from gradients of 3 × 3 parts of it, for which oneDNN is fast.

    Part (i, j) of the kernel sees the padded input from row i and column j on. Parts may overlap.
    """
    (up, left), sides = form.padding, gradient.shape[-2:]
    x = F.pad(x, (left, left, up, up))
    height, width = ((n - 1) * s + FAST for n, s in zip(sides, form.stride, strict=True))
    of_weight = torch.zeros(shape, dtype=x.dtype)
    part = torch.Size([shape[0], 1, FAST, FAST])
    for i in starts(shape[2], zeros[0]):
        for j in starts(shape[3], zeros[1]):
            seen = x[:, :, i : i + height, j : j + width].contiguous(memory_format=torch.channels_last)
            found = conv2d_weight(seen, part, gradient, form.stride, groups=shape[0])  # type: ignore[no-untyped-call]
            of_weight[:, :, i : i + FAST, j : j + FAST] = found
    return of_weight


def starts(kernel: int, first: int = 0) -> list[int]:
    """First rows of parts of FAST rows that cover a kernel from row `first` on.

    >>> starts(5), starts(7), starts(3), starts(4, 1), starts(6, 1)
    ([0, 2], [0, 3, 4], [0], [1], [1, 3])
    """
    return [*range(first, kernel - FAST, FAST), kernel - FAST]


def by_taps(x: Tensor, gradient: Tensor, shape: torch.Size, form: Form) -> Tensor:
    """∂L/∂w[c, i, j] = Σ x[c, y + δy, x + δx] · g[c, y, x], summed over the overlap of the two maps.

    (δy, δx) is the offset of kernel element (i, j) from the centre of the kernel. The kernel size must be odd, and the padding
    must keep the size of the map.
    """
    channels, _, rows, columns = shape
    height, width = x.shape[-2:]
    taps = []
    for i in range(rows):
        for j in range(columns):
            dy, dx = (i - rows // 2) * form.dilation[0], (j - columns // 2) * form.dilation[1]
            if abs(dy) >= height or abs(dx) >= width:  # this kernel element only sees padding
                taps.append(x.new_zeros(channels, dtype=torch.float32))
                continue
            here = gradient[:, :, max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
            there = x[:, :, max(dy, 0) : height - max(-dy, 0), max(dx, 0) : width - max(-dx, 0)]
            taps.append((here * there).sum((0, 2, 3), dtype=torch.float32))
    return torch.stack(taps, dim=1).view(channels, 1, rows, columns)
