import pytest
import torch

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.optim.progressive_resize import mean_cost, resized, size_factor
from conditional_detr.training.optim.run_schedule import RunSchedule

GROWING = RecipeConfig(progressive_resize_from=0.5, schedule="cosine", epochs=10)


def test_images_have_their_own_size_for_the_last_fifth():
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
    torch.testing.assert_close(small[0, :, :, : width - 1], torch.ones(3, 20, width - 1))  # what is seen is the image
    assert small[0, :, :, width + 1 :].abs().max() < 1e-6


def test_an_image_of_a_single_row_keeps_it():
    mask = torch.ones(2, 64, 64, dtype=torch.bool)
    mask[0], mask[1, :1] = False, False
    _, small_mask = resized(torch.zeros(2, 3, 64, 64), mask, 0.5, multiple=32)
    assert not small_mask[1, 0].any()


def test_a_batch_of_its_own_size_is_left_as_it_is():
    images = torch.randn(1, 3, 40, 61)
    assert resized(images, None, 1.0)[0] is images
    assert resized(images, None, 0.5, multiple=32)[0].shape == (1, 3, 32, 32)


def test_the_time_that_is_left_knows_that_images_grow():
    """By brute force: steps take as long as their images are large, and what is left is what the others will take."""
    seconds = [size_factor(step / 1000, GROWING) ** 2 for step in range(1000)]
    assert mean_cost(0.2, 0.9, GROWING) == pytest.approx(sum(seconds[200:900]) / 700, rel=0.01)
    plan, fixed = (
        RunSchedule(r, steps=100, images=5) for r in (GROWING, GROWING.model_copy(update={"progressive_resize_from": 1.0}))
    )
    for began, now in ((0, 1), (0, 500), (300, 850), (900, 950)):  # the process may have gone on with a run
        left = plan.seconds_left(TrainerState(epoch=now // 100, position=now % 100), now - began, sum(seconds[began:now]))
        assert left == pytest.approx(sum(seconds[now:]), rel=0.02)
    assert fixed.seconds_left(TrainerState(epoch=4), 100, 50.0) == pytest.approx(300)


def test_judging_whole_images_costs_more_than_small_ones_that_are_learned():
    """The guess before the first evaluation."""
    small, whole = (
        RunSchedule(RecipeConfig(minutes=10, batch=2, progressive_resize_from=start), steps=100, images=40)
        for start in (0.5, 1.0)
    )
    begun = TrainerState(position=60, spent=6.0)
    assert small.progress_fraction(begun) > whole.progress_fraction(begun)
