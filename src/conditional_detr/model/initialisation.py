"""Where the weights start."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from conditional_detr.model.decoder import Decoder
from conditional_detr.model.positional import sine_embedding

PEAK_LOGIT = 10.0
WIDTH, RADIUS = 0.15, 0.1  # of the kernel and of the heads' circle, in image sizes
ROBUSTNESS = 0.05  # relative error of an embedding's entry that the fit must bear; Λ_q is not exactly 1
FITTED_GRID = 32


def initialise_transformer(*parts: nn.Module) -> None:
    """Xavier-uniform for every matrix, zeros for the biases of attention's output (released code).

    DETR holds the query, key and value projections of its attention as one [3D, D] matrix, hence their smaller gain, and
    starts their biases at zero.
    """
    for part in parts:
        joint = {projection for module in part.modules() for projection in getattr(module, "joint_projections", ())}
        outputs = {getattr(module, "out", None) for module in part.modules()}
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, gain=2**-0.5 if module in joint else 1.0)
                if module in joint or module in outputs:
                    nn.init.zeros_(module.bias)


@torch.no_grad()
def init_local_spatial_attention(decoder: Decoder) -> None:
    """Let every query look, from the first step on, around its own reference point, each head in its own direction.

    With the paper's initialisation p_q·p_k is noise, and the first thousands of steps go into finding out that places
    matter. Here the projections of the points p_s and of the memory's positions p_k start so that head h's spatial logit
    is about ``PEAK_LOGIT · exp(−|r + δ_h − x|² / 2 WIDTH²)`` for a query at r and a cell at x: both are fitted, by ridge
    regression on the sine embedding, to the random Fourier features of that kernel. The δ_h lie on a circle. Λ_q starts
    near the identity.

    Source: engineering, after the offsets that Deformable DETR's heads start with; measured in docs/experiments.md.
    """
    for layer in decoder.layers:
        attention: Any = layer.cross_attention
        weights = local_projections(attention.q_spatial.in_features, attention.num_heads)
        for projection, weight in zip((attention.q_spatial, attention.k_spatial), weights, strict=True):
            projection.weight.copy_(weight)
            projection.bias.zero_()
    decoder.spatial_query.init_identity()


def local_projections(dim: int, num_heads: int) -> tuple[Tensor, Tensor]:
    """Weights [D, D] of the spatial query and of the spatial key, for `init_local_spatial_attention`."""
    width = dim // num_heads
    grid = (torch.arange(FITTED_GRID) + 0.5) / FITTED_GRID
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1).view(-1, 2).double()
    embedded = sine_embedding(points, dim).double()
    gram = embedded.T @ embedded + 0.5 * ROBUSTNESS**2 * len(points) * torch.eye(dim, dtype=torch.float64)
    # A head's logit is divided by √(2 width): it is compared beside an equally wide content part.
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
