"""Initialisation of the weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from conditional_detr.model.decoder import Decoder
from conditional_detr.model.positional import sine_embedding

PEAK_LOGIT = 10.0
WIDTH, RADIUS = 0.15, 0.1  # width of the kernel and radius of the circle of the heads' offsets, relative to the image size
# Relative error of an entry of the sine embedding that the fit must tolerate, because Λ_q is not exactly the identity.
ROBUSTNESS = 0.05
FITTED_GRID = 32  # points along each axis that the fit uses


def initialise_transformer(*parts: nn.Module) -> None:
    """Initialise all matrices with Xavier-uniform values and the output biases of attention with zeros, as in released code.

    DETR stores the query, key and value projections of its attention as one [3D, D] matrix. Therefore such projections get a
    smaller gain here, and their biases start at zero. A module with a method `initialise` sets its own values afterwards.
    """
    for part in parts:
        joint = {projection for module in part.modules() for projection in getattr(module, "joint_projections", ())}
        outputs = {getattr(module, "out", None) for module in part.modules()}
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, gain=2**-0.5 if module in joint else 1.0)
                if module in joint or module in outputs:
                    nn.init.zeros_(module.bias)
        for module in part.modules():  # those that differ say so
            getattr(module, "initialise", lambda: None)()


@torch.no_grad()
def init_local_spatial_attention(decoder: Decoder) -> None:
    """Initialise spatial attention so that each query attends to the surroundings of its own reference point from the start.

    With the paper's initialisation the spatial logit p_q·p_k is noise at first, and the model spends thousands of steps
    learning that positions matter. With this initialisation the spatial logit of head h is about
    ``PEAK_LOGIT · exp(−|r + δ_h − x|² / 2 WIDTH²)`` for a query at r and a cell at x. The offsets δ_h lie on a circle, so each
    head looks in its own direction. For this, ridge regression on the sine embedding fits the projections of the
    reference points and of the memory positions to random Fourier features of this kernel. Λ_q starts near the identity.

    Source: our own design, inspired by the initial offsets of the heads in Deformable DETR; measured in docs/experiments.md.
    """
    for layer in decoder.layers:
        attention: Any = layer.cross_attention
        weights = local_projections(attention.q_spatial.in_features, attention.num_heads)
        for projection, weight in zip((attention.q_spatial, attention.k_spatial), weights, strict=True):
            projection.weight.copy_(weight)
            projection.bias.zero_()
    decoder.spatial_query.init_identity()


def local_projections(dim: int, num_heads: int) -> tuple[Tensor, Tensor]:
    """Weights [D, D] of the spatial query and spatial key projections for `init_local_spatial_attention`."""
    width = dim // num_heads
    grid = (torch.arange(FITTED_GRID) + 0.5) / FITTED_GRID
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1).view(-1, 2).double()
    embedded = sine_embedding(points, dim).double()
    gram = embedded.T @ embedded + 0.5 * ROBUSTNESS**2 * len(points) * torch.eye(dim, dtype=torch.float64)
    # Logits are divided by √(2 width), because the content part of each head is as wide as its spatial part.
    gain = math.sqrt(PEAK_LOGIT * math.sqrt(2 * width))
    query_rows: list[Tensor] = []
    key_rows: list[Tensor] = []
    for head in range(num_heads):
        frequencies = torch.randn(2, -(-width // 2), dtype=torch.float64) / WIDTH
        turn = 2 * math.pi * head / num_heads
        offset = RADIUS * torch.tensor([math.cos(turn), math.sin(turn)], dtype=torch.float64)
        for rows, where in ((query_rows, points + offset), (key_rows, points)):
            phases = where @ frequencies
            features = torch.cat([phases.cos(), phases.sin()], dim=1)[:, :width] * math.sqrt(2 / width)
            rows.append(gain * torch.linalg.solve(gram, embedded.T @ features).T)
    return torch.cat(query_rows).float(), torch.cat(key_rows).float()
