"""Small models for tests."""

import torch

from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.model.memory import Memory


def perturbed(model: DetectionModel) -> DetectionModel:
    """The model with noise on its weights: fresh ones hide faults, as all queries come out alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def small(name: str = "conditional-detr-tiny", num_classes: int = 5, **overrides: object) -> DetectionModel:
    """A model with few parts, fresh weights, in eval mode; the same at each call."""
    torch.manual_seed(0)
    few = {"encoder_layers": 2, "decoder_layers": 3, "feedforward_dim": 64, "num_queries": 7}
    return create_model(name, num_classes, pretrained_backbone=False, **{**few, **overrides}).eval()


def memory_like(
    tokens: torch.Tensor, position: torch.Tensor, height: int = 1, is_padding: torch.Tensor | None = None
) -> Memory:
    """A memory of one level whose cells are rows of the image; padding is taken to be whole columns at the right."""
    width = tokens.shape[1] // height
    within = width if is_padding is None else width - int(is_padding[0].view(height, width)[0].sum())
    x, y = (torch.arange(width) + 1) / within, (torch.arange(height) + 1) / height
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(1, -1, 2)
    extents = torch.tensor([[[float(within), float(height)]]])
    return Memory(tokens, position, points, is_padding, ((height, width),), extents)


def random_memory(batch: int = 1, cells: int = 12, dim: int = 32) -> Memory:
    """A memory of one level, one row high, of random tokens; its position is the same for all images."""
    return memory_like(torch.randn(batch, cells, dim), torch.randn(1, cells, dim))


def with_levels(memory: Memory, levels: int) -> Memory:
    """A memory of one level with coarser levels: every second cell of a row, and so on."""
    cells = [slice(None, None, 2**level) for level in range(levels)]
    tokens, position, points = (torch.cat([x[:, every] for every in cells], dim=1) for x in memory[:3])
    is_padding = None if memory.is_padding is None else torch.cat([memory.is_padding[:, every] for every in cells], dim=1)
    shapes = tuple((1, memory.tokens[:, every].shape[1]) for every in cells)
    extents = torch.cat([memory.extents / torch.tensor([2.0**level, 1.0]) for level in range(levels)], dim=1)
    return Memory(tokens, position, points, is_padding, shapes, extents)
