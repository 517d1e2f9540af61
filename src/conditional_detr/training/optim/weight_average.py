"""A moving average of the weights: what is judged and kept while the weights themselves go on learning."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(model: nn.Module, share: float) -> AveragedModel:
    """An average over about the last `share` of all steps so far; `update_parameters` after each step, `.module` is the model.

    The horizon grows with the run, so neither a short nor a long one needs a constant of its own: the n-th weights enter with
    1 / (1 + share · n).

    Source: the idea of Karras et al., CVPR 2024 (power-function averages), with an arithmetic of our own.

    Parameters
    ----------
    model : is copied
    share : in (0, 1)
    """

    def enter(average: Tensors, current: Tensors, count: Tensor | int) -> None:
        torch._foreach_lerp_(average, current, 1 / (1 + share * float(count)))

    with torch.no_grad():
        return AveragedModel(model, multi_avg_fn=enter)
