import math

import torch

from conditional_detr.model.encoder import Memory
from conditional_detr.model.positional import extent_in_cells, grid_points, inverse_sigmoid, sine_embedding


def brute_force(x: float, y: float, dim: int) -> list[float]:
    half = dim // 2
    out = []
    for u in (y, x):  # the vertical half first
        for i in range(half):
            angle = 2 * math.pi * u / 10_000 ** (2 * (i // 2) / half)
            out.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    return out


def test_sine_embedding_is_the_formula():
    points = torch.tensor([[0.0, 0.0], [0.3, 0.8], [1.0, 0.25]])
    expected = torch.tensor([brute_force(*point, 32) for point in points.tolist()])
    torch.testing.assert_close(sine_embedding(points, 32), expected, atol=2e-6, rtol=0)


def test_at_the_origin_even_entries_are_zero_and_odd_ones_one():
    embedding = sine_embedding(torch.zeros(2), 256)
    assert embedding[0::2].eq(0).all()
    assert embedding[1::2].eq(1).all()


def test_trap_y_comes_first():
    below = sine_embedding(torch.tensor([0.0, 0.7]), 64)
    assert below[:32].ne(sine_embedding(torch.zeros(2), 64)[:32]).any()
    torch.testing.assert_close(below[32:], sine_embedding(torch.zeros(2), 64)[32:])


def test_sine_embedding_stays_in_float32_under_autocast():
    points = torch.rand(7, 2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = sine_embedding(points, 64)
    torch.testing.assert_close(inside, sine_embedding(points, 64), atol=0, rtol=0)


def test_trap_the_first_cell_is_at_one_over_its_extent_and_the_last_at_one():
    points = grid_points(None, 4, 5, torch.device("cpu"))[0]
    torch.testing.assert_close(points[0, 0], torch.tensor([1 / 5, 1 / 4]))
    torch.testing.assert_close(points[3, 4], torch.ones(2))


def test_positions_are_relative_to_the_unpadded_extent():
    is_padding = torch.zeros(2, 6, 8, dtype=torch.bool)
    is_padding[1, 4:], is_padding[1, :, 5:] = True, True
    points = grid_points(is_padding, 6, 8, torch.device("cpu"))
    torch.testing.assert_close(points[0], grid_points(None, 6, 8, torch.device("cpu"))[0])
    torch.testing.assert_close(points[1, :4, :5], grid_points(None, 4, 5, torch.device("cpu"))[0])


def test_exact_positions_are_of_pixels_whatever_the_size_and_the_padding():
    images, padding_mask = torch.zeros(2, 3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.bool)
    padding_mask[1, 40:], padding_mask[1, :, 70:] = True, True
    extent = extent_in_cells(images, padding_mask, 16)
    points = grid_points(padding_mask[:, ::16, ::16], 6, 8, torch.device("cpu"), extent)
    torch.testing.assert_close(points[0, 2, 7] * torch.tensor([128, 96]), torch.tensor([128.0, 48.0]))
    torch.testing.assert_close(points[1, 1, 3] * torch.tensor([70, 40]), torch.tensor([64.0, 32.0]))
    torch.testing.assert_close(points[1, 2, 4] * torch.tensor([70, 40]), torch.tensor([80.0, 48.0]))  # ends outside
    centres = Memory(torch.zeros(2, 48, 4), points.flatten(1, 2), None).centres.view(2, 6, 8, 2)
    torch.testing.assert_close(centres[0, 2, 7] * torch.tensor([128, 96]), torch.tensor([120.0, 40.0]))
    torch.testing.assert_close(centres[1, 2, 4] * torch.tensor([70, 40]), torch.tensor([67.0, 36.0]))  # of what is inside
    alone = grid_points(None, 6, 8, torch.device("cpu"), extent_in_cells(images[:1], None, 16))
    torch.testing.assert_close(points[:1], alone)
    whole = grid_points(None, 6, 8, torch.device("cpu"))  # where sides are whole cells, DETR's are exact
    torch.testing.assert_close(points[:1], whole)


def test_inverse_sigmoid_inverts_and_is_clamped():
    p = torch.tensor([0.0, 0.2, 0.9, 1.0])
    torch.testing.assert_close(inverse_sigmoid(p)[1:3], torch.logit(p[1:3]))
    torch.testing.assert_close(inverse_sigmoid(p)[[0, 3]], torch.tensor([-1, 1]) * math.log(1e5))
