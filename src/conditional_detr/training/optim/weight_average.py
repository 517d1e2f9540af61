"""Moving average of the weights. The averaged model is evaluated and saved as the best, while training continues."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged(model: nn.Module, share: float) -> AveragedModel:
    """Create an average of the weights over about the last fraction `share` of all steps so far.

    Call `update_parameters` after each step. The attribute `module` is the averaged model.

    The length of the average grows with the run, so short and long runs can use the same value. After n earlier updates, the
    new weights are added with weight 1 / (1 + share · n).

    Source: the idea of power-function averages (Karras et al., CVPR 2024), with our own formula.

    Parameters
    ----------
    model : model to average; it is copied
    share : fraction of the steps, in (0, 1)
    """

    def enter(average: Tensors, current: Tensors, count: Tensor | int) -> None:
        torch._foreach_lerp_(average, current, 1 / (1 + share * float(count)))

    with torch.no_grad():
        return AveragedModel(model, multi_avg_fn=enter)
