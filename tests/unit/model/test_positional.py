import math

import torch

from conditional_detr.model.memory import Memory, build_memory
from conditional_detr.model.positional import Grid, extent_in_whole_cells, inverse_sigmoid, pixel_aligned, sine_embedding

WHOLE, ALIGNED = Grid((16,), extent_in_whole_cells), Grid((16,), pixel_aligned)


def memory_at(padding_mask: torch.Tensor, grid: Grid, masked: bool = True) -> Memory:
    """A memory of images whose pixels are padding where the mask [B, H, W] says so, at stride 16."""
    batch, height, width = padding_mask.shape
    images, features = torch.zeros(batch, 3, height, width), torch.zeros(batch, 4, height // 16, width // 16)
    return build_memory([features], images, padding_mask if masked else None, grid)


def points_of(height: int, width: int) -> torch.Tensor:
    """Those of an image of so many whole cells without padding, [h, w, 2]."""
    nothing = torch.zeros(1, 16 * height, 16 * width, dtype=torch.bool)
    return memory_at(nothing, WHOLE, masked=False).points.view(height, width, 2)


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
    points = points_of(4, 5)
    torch.testing.assert_close(points[0, 0], torch.tensor([1 / 5, 1 / 4]))
    torch.testing.assert_close(points[3, 4], torch.ones(2))


def test_positions_are_relative_to_the_unpadded_extent():
    padding_mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding_mask[1, 64:], padding_mask[1, :, 80:] = True, True
    memory = memory_at(padding_mask, WHOLE)
    points = memory.points.view(2, 6, 8, 2)
    torch.testing.assert_close(points[0], points_of(6, 8))
    torch.testing.assert_close(points[1, :4, :5], points_of(4, 5))
    torch.testing.assert_close(memory.extents, torch.tensor([[[8.0, 6.0]], [[5.0, 4.0]]]))


def test_pixel_aligned_positions_are_of_pixels_whatever_the_size_and_the_padding():
    padding_mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding_mask[1, 40:], padding_mask[1, :, 70:] = True, True
    memory = memory_at(padding_mask, ALIGNED)
    points = memory.points.view(2, 6, 8, 2)
    torch.testing.assert_close(points[0, 2, 7] * torch.tensor([128, 96]), torch.tensor([128.0, 48.0]))
    torch.testing.assert_close(points[1, 1, 3] * torch.tensor([70, 40]), torch.tensor([64.0, 32.0]))
    torch.testing.assert_close(points[1, 2, 4] * torch.tensor([70, 40]), torch.tensor([80.0, 48.0]))  # ends outside
    centres = memory.centres.view(2, 6, 8, 2)
    torch.testing.assert_close(centres[0, 2, 7] * torch.tensor([128, 96]), torch.tensor([120.0, 40.0]))
    torch.testing.assert_close(centres[1, 2, 4] * torch.tensor([70, 40]), torch.tensor([67.0, 36.0]))  # of what is inside
    alone = memory_at(padding_mask[:1], ALIGNED, masked=False).points
    torch.testing.assert_close(points[:1], alone.view(1, 6, 8, 2))
    torch.testing.assert_close(points[0], points_of(6, 8))  # where sides are whole cells, DETR's are exact


def test_inverse_sigmoid_inverts_and_is_clamped():
    p = torch.tensor([0.0, 0.2, 0.9, 1.0])
    torch.testing.assert_close(inverse_sigmoid(p)[1:3], torch.logit(p[1:3]))
    torch.testing.assert_close(inverse_sigmoid(p)[[0, 3]], torch.tensor([-1, 1]) * math.log(1e5))
