"""What queries look at: one level or several, each with cells of its own size."""

import pytest
import torch

from conditional_detr.model.memory import Memory, build_memory, joined
from conditional_detr.model.positional import Grid, extent_in_whole_cells, pixel_aligned, sine_embedding

STRIDES = 16, 32
every_extent = pytest.mark.parametrize("extent", [extent_in_whole_cells, pixel_aligned])


def two_levels() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Maps at strides 16 and 32 of two images, the second of which ends within cells of both; random tokens."""
    images, padding_mask = torch.zeros(2, 3, 96, 160), torch.zeros(2, 96, 160, dtype=torch.bool)
    padding_mask[1, 70:], padding_mask[1, :, 100:] = True, True
    return [torch.randn(2, 8, 96 // stride, 160 // stride) for stride in STRIDES], images, padding_mask


def each_alone(extent, padded: bool = True) -> tuple[Memory, list[Memory]]:
    """A memory of two levels, and one of each map by itself."""
    maps, images, padding_mask = two_levels()
    mask = padding_mask if padded else None
    both = build_memory(maps, images, mask, Grid(STRIDES, extent))
    return both, [build_memory([x], images, mask, Grid((s,), extent)) for x, s in zip(maps, STRIDES, strict=True)]


@every_extent
@pytest.mark.parametrize("padded", [True, False])
def test_each_level_lies_where_it_would_lie_by_itself(extent, padded: bool):
    both, alone = each_alone(extent, padded)
    assert both.shapes == ((6, 10), (3, 5))
    for name in ("tokens", "position", "points", "centres"):
        levels = both.levels(getattr(both, name))
        assert [x.shape[1] for x in levels] == [60, 15], name
        for level, single in zip(levels, alone, strict=True):
            torch.testing.assert_close(level, getattr(single, name), atol=0, rtol=0, msg=name)
    torch.testing.assert_close(both.extents, torch.cat([single.extents for single in alone], dim=1), atol=0, rtol=0)
    if padded:
        for level, single in zip(both.levels(both.is_padding[..., None].float()), alone, strict=True):
            assert level[..., 0].bool().equal(single.is_padding)
    else:
        assert both.is_padding is None


def test_cells_of_a_coarser_level_are_larger_and_their_centres_lie_in_the_image():
    both, _ = each_alone(pixel_aligned)
    fine, coarse = both.maps(both.centres)
    size = torch.tensor([160.0, 96.0])
    torch.testing.assert_close(fine[0, :, 1, 2] * size, torch.tensor([40.0, 24.0]))
    torch.testing.assert_close(coarse[0, :, 1, 2] * size, torch.tensor([80.0, 48.0]))
    size = torch.tensor([100.0, 70.0])  # of the second image; its last cells end outside
    torch.testing.assert_close(fine[1, :, 4, 6] * size, torch.tensor([98.0, 67.0]))
    torch.testing.assert_close(coarse[1, :, 2, 3] * size, torch.tensor([98.0, 67.0]))
    torch.testing.assert_close(both.extents[1], torch.tensor([[100 / 16, 70 / 16], [100 / 32, 70 / 32]]))


@every_extent
def test_maps_are_what_the_memory_was_made_of(extent):
    maps, images, padding_mask = two_levels()
    memory = build_memory(maps, images, padding_mask, Grid(STRIDES, extent))
    for x, given in zip(memory.maps(memory.tokens), maps, strict=True):
        assert x.equal(given)
    assert memory.position.equal(sine_embedding(memory.points, 8))


def test_a_single_level_is_not_copied():
    x = torch.randn(2, 3, 4)
    assert joined([x]) is x
    assert joined([x, x]).shape == (2, 6, 4)


def test_every_level_has_a_stride():
    maps, images, padding_mask = two_levels()
    with pytest.raises(ValueError, match="shorter"):
        build_memory(maps, images, padding_mask, Grid(STRIDES[:1], extent_in_whole_cells))
