import pytest
import torch

from conditional_detr.config import RecipeConfig
from conditional_detr.training.growing import cost_left, resized, size_factor
from conditional_detr.training.plan import Plan
from conditional_detr.training.progress import Progress

GROWING = RecipeConfig(grow_from=0.5, schedule="cosine", epochs=10)


def test_pictures_have_their_own_size_for_the_last_fifth():
    assert [size_factor(share, GROWING) for share in (0.0, 0.4, 0.8, 1.0)] == pytest.approx([0.5, 0.75, 1, 1])
    assert {size_factor(share, RecipeConfig()) for share in (0.0, 0.5, 1.0)} == {1.0}


def test_a_batch_shrinks_with_its_mask():
    images, mask = torch.zeros(2, 3, 40, 61), torch.zeros(2, 40, 61, dtype=torch.bool)
    images[0, :, :, :30], mask[0, :, 30:] = 1.0, True  # the first one is half as wide: ones, then padding
    small, small_mask = resized(images, mask, 0.5)
    assert small.shape == (2, 3, 20, 30)
    assert small_mask.shape == (2, 20, 30)
    assert not small_mask[1].any()
    width = int((~small_mask[0, 0]).sum())
    assert width == 15
    torch.testing.assert_close(small[0, :, :, : width - 1], torch.ones(3, 20, width - 1))  # what is seen is the picture
    assert small[0, :, :, width + 1 :].abs().max() < 1e-6


def test_a_batch_of_its_own_size_is_left_as_it_is():
    images = torch.randn(1, 3, 40, 61)
    assert resized(images, None, 1.0)[0] is images
    assert resized(images, None, 0.5, multiple=32)[0].shape == (1, 3, 32, 32)


def test_the_time_that_is_left_knows_that_pictures_grow():
    """By brute force: the sum of what is left over what a step costs now."""
    for share in (0.0, 0.3, 0.7, 0.9):
        rest = [size_factor(i / 10_000, GROWING) ** 2 for i in range(int(share * 10_000), 10_000)]
        assert cost_left(share, GROWING) == pytest.approx(sum(rest) / len(rest) / size_factor(share, GROWING) ** 2, rel=0.01)
    plan, fixed = (Plan(r, steps=10, pictures=5) for r in (GROWING, GROWING.model_copy(update={"grow_from": 1.0})))
    assert fixed.seconds_left(Progress(), rate=2.0) == pytest.approx(50)
    assert plan.seconds_left(Progress(), rate=2.0) == pytest.approx(50 * cost_left(0.0, GROWING))


def test_judging_whole_pictures_costs_more_than_small_ones_that_are_learned():
    """The guess before the first evaluation."""
    small, whole = (Plan(RecipeConfig(minutes=10, batch=2, grow_from=start), steps=100, pictures=40) for start in (0.5, 1.0))
    begun = Progress(position=60, spent=6.0)
    assert small.share_done(begun) > whole.share_done(begun)
