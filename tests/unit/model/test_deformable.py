"""Deformable DETR on a single scale: its attention against a plain formula, and what is easily got wrong."""

import itertools
import math

import pytest
import torch

from conditional_detr.config.presets import PRESETS
from conditional_detr.config.recipes import RECIPES
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.model.attention.deformable import (
    DeformableAttention,
    DeformableCrossAttention,
    DeformableEncoderAttention,
    cell_centres,
    sample,
)
from conditional_detr.model.memory import build_memory
from conditional_detr.model.positional import Grid, extent_in_whole_cells
from conditional_detr.model.queries import Queries
from conditional_detr.training.optim.optimizer import build_optimizer
from models import perturbed, small


def bilinear(level: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Value [d] of a map [d, h, w] at (x, y) in [0, 1]; the centre of the first cell is at half a cell, outside are zeros."""
    _, height, width = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(column), math.floor(row)
    value = torch.zeros(len(level))
    for i, j in itertools.product((0, 1), (0, 1)):
        if 0 <= left + i < width and 0 <= top + j < height:
            share = (1 - abs(column - left - i)) * (1 - abs(row - top - j))
            value += share * level[:, top + j, left + i]
    return value


@pytest.mark.parametrize("levels", [1, 2])
def test_sampling_equals_a_plain_bilinear_formula(levels: int):
    heads, width, queries, points = 2, 3, 5, 4
    maps = [torch.randn(2, heads * width, 4 - level, 6 - level) for level in range(levels)]
    places = torch.rand(2, queries, heads, levels, points, 2) * 1.6 - 0.3  # also outside
    weights = torch.rand(2, queries, heads, levels, points)
    found = sample(maps, places, weights, heads)
    expected = torch.zeros_like(found)
    for b, q, h, s, p in itertools.product(range(2), range(queries), range(heads), range(levels), range(points)):
        own = slice(h * width, (h + 1) * width)
        x, y = places[b, q, h, s, p].tolist()
        expected[b, q, own] += weights[b, q, h, s, p] * bilinear(maps[s][b, own], x, y)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def memory_of(height: int, width: int, padded: int = 0, shift: float = 0.5):
    """A memory of one level with a padding of whole columns, in the second of two images."""
    mask = torch.zeros(2, 32 * height, 32 * width, dtype=torch.bool)
    mask[1, :, 32 * (width - padded) :] = padded > 0
    grid = Grid((32,), extent_in_whole_cells, shift)
    return build_memory([torch.randn(2, 16, height, width)], torch.zeros(2, 3, 32 * height, 32 * width), mask, grid)


def test_offsets_are_in_cells_with_x_first():
    attention = DeformableCrossAttention(16, 4, 0.0, points=2)
    attention.initialise()
    queries = Queries.start(torch.zeros(1, 3, 16), torch.full((1, 3, 2), 0.5))
    memory = memory_of(4, 10)
    places, weights = attention.places(queries.position, attention.on_levels(queries, memory), memory)
    assert weights.eq(1 / 2).all()
    away = (places[0, 0, :, 0] - 0.5) * torch.tensor([10, 4])
    expected = torch.tensor([[[1.0, 0], [2, 0]], [[0, 1], [0, 2]], [[-1, 0], [-2, 0]], [[0, -1], [0, -2]]])
    torch.testing.assert_close(away, expected, atol=1e-5, rtol=0)


def test_heads_look_in_all_directions_and_the_longer_side_counts():
    attention = DeformableAttention(32, 8, 0.0)
    attention.initialise()
    offsets = attention.offsets.bias.view(8, 1, 4, 2)
    assert offsets.abs().amax(-1)[:, 0].allclose(torch.arange(1.0, 5).expand(8, 4))
    torch.testing.assert_close(offsets[1, 0, 0], torch.tensor([1.0, 1.0]))  # 45 degrees


def test_padding_is_zero_after_the_projection_and_its_weight_is_lost():
    attention = perturbed(DeformableCrossAttention(16, 4, 0.0))
    memory = memory_of(4, 8, padded=4)
    queries = Queries.start(torch.randn(1, 3, 16), torch.rand(1, 3, 2))
    with torch.no_grad():
        attention.out.weight.copy_(torch.eye(16))
        attention.out.bias.zero_()
        attention.value.weight.zero_()
        attention.value.bias.fill_(1.0)
        found = attention(queries._replace(reference=torch.full((1, 3, 2), 1.0)), memory)  # at the right end of the image
    assert (found[1] < 1 - 1e-3).any()  # some samples fall on padding, and are not replaced
    assert found.max() <= 1 + 1e-5


def test_reference_points_are_of_the_unpadded_image_and_the_boxes_too():
    """Padded columns move the places in the map, so that they stay at the same cells; the box head sees the point itself."""
    attention = perturbed(DeformableCrossAttention(16, 4, 0.0))
    queries = Queries.start(torch.randn(1, 3, 16), torch.rand(1, 3, 2))
    padded = memory_of(4, 8, padded=3)
    alone = padded._replace(
        tokens=padded.tokens[1:].view(1, 4, 8, 16)[:, :, :5].flatten(1, 2), is_padding=None, shapes=((4, 5),),
        extents=padded.extents[1:],
    )  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(attention(queries, padded)[1:], attention(queries, alone), atol=1e-5, rtol=1e-5)


def test_in_the_encoder_a_cell_samples_around_its_own_centre():
    memory = memory_of(3, 5, padded=2)
    x, y = torch.meshgrid((torch.arange(5) + 0.5) / 5, (torch.arange(3) + 0.5) / 3, indexing="xy")
    expected = torch.stack([x, y], -1).view(1, 15, 2).expand(2, -1, -1)
    torch.testing.assert_close(cell_centres(memory) * memory.valid_ratios, expected, atol=1e-5, rtol=1e-5)
    attention = DeformableEncoderAttention(16, 4, 0.0)
    assert attention(memory).shape == (2, 15, 16)


@pytest.mark.parametrize(("shift", "first"), [(0.0, 1.0), (0.5, 0.5)])
def test_positions_may_be_centres_instead_of_corners(shift: float, first: float):
    from conditional_detr.model.positional import sine_embedding

    memory = memory_of(4, 8, shift=shift)
    expected = sine_embedding(torch.tensor([first / 8, first / 4]), 16)
    torch.testing.assert_close(memory.position[0, 0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(memory.points[0, 0], torch.tensor([1 / 8, 1 / 4]), atol=1e-5, rtol=1e-5)


def test_at_the_start_boxes_are_small_and_at_their_points_and_classes_are_rare():
    model = create_model("deformable-detr-ss-tiny", 3, pretrained_backbone=False).eval()
    with torch.no_grad():
        output = model(torch.randn(1, 3, 96, 128))
        points = model.reference_points.linear(model.object_query).sigmoid()
    torch.testing.assert_close(output.pred_boxes[0, :, :2], points, atol=1e-5, rtol=1e-4)
    assert output.pred_boxes[0, :, 2:].allclose(torch.tensor(-2.0).sigmoid())
    assert output.pred_logits.sigmoid().mean() == pytest.approx(0.01, abs=0.02)


def test_the_points_get_gradients_through_the_places_and_through_the_boxes():
    model = perturbed(small("deformable-detr-ss-tiny", 3, hidden_dim=32))
    output = model(torch.randn(1, 3, 64, 96))
    (from_boxes,) = torch.autograd.grad(output.pred_boxes[..., :2].sum(), model.reference_points.linear.bias, retain_graph=True)
    (from_places,) = torch.autograd.grad(output.pred_logits.sum(), model.reference_points.linear.bias)
    assert from_boxes.abs().min() > 0
    assert from_places.abs().min() > 0


def test_three_learning_rates_as_in_the_released_code():
    """Numbers of values of each group of AdamW, from the released code. Here joint projections are three tensors each."""
    model = create_model("deformable-detr-ss-r50", 91, pretrained_backbone=False)
    optimizer = build_optimizer(model, RECIPES["paper"].model_copy(update={"lr": 2e-4, "lr_backbone": 2e-5}))
    groups = sorted((len(g["params"]), sum(p.numel() for p in g["params"]), round(g["lr"], 8)) for g in optimizer.param_groups)
    assert groups == [(26, 197_890, 2e-5), (42, 23_232_512, 2e-5), (218 + 6 * 2 * 2 + 1, 10_413_791, 2e-4)]


@pytest.mark.parametrize("name", ["deformable-detr-ss-r50", "deformable-detr-ss-dc5-r50"])
def test_the_released_codes_counts_of_parameters(name: str):
    model = create_model(name, 91, pretrained_backbone=False)
    assert sum(p.numel() for p in model.parameters()) == 34_066_593
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 33_844_193


def test_nothing_of_another_system_is_left_in_it():
    names = [key for key, _ in create_model("deformable-detr-ss-tiny", 3, pretrained_backbone=False).named_parameters()]
    assert not [key for key in names if "spatial" in key or "lambda" in key or key.startswith("decoder.norm")]
    assert PRESETS["deformable-detr-ss-tiny"].model.feedforward_dim == 512


@pytest.mark.parametrize(
    "variant",
    [{"cross_attention": "conditional"}, {"encoder_attention": "dense"}, {"learned_content": False, "decoder_norm": True}],
)
def test_its_parts_can_be_mixed_with_those_of_conditional_detr(variant: dict):
    model: DetectionModel = perturbed(small("deformable-detr-ss-tiny", 3, hidden_dim=32, **variant))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        both = model(images).pred_boxes
        for i in range(2):
            torch.testing.assert_close(model(images[i : i + 1]).pred_boxes[0], both[i], atol=1e-5, rtol=1e-4)
