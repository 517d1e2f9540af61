import math

import pytest

from conditional_detr.training.artifacts.trainer_state import TrainerState

GOOD, BAD = {"loss": 2.0, "gradient_norm": 1.0}, {"loss": 9.0, "gradient_norm": math.inf}


def test_means_are_over_the_steps_that_moved_something():
    progress = TrainerState()
    for losses in (GOOD, BAD, {**GOOD, "loss": 4.0}):
        progress.count(losses)
    assert progress.position == 3
    assert (progress.skipped, progress.skipped_in_a_row) == (1, 0)
    progress.close_epoch({"AP": 0.1}, lr=0.5)
    row = progress.history[0]
    assert row["loss"] == pytest.approx(3.0)
    assert (row["epoch"], row["lr"], row["skipped_steps"], row["AP"]) == (1, 0.5, 1, 0.1)
    assert (progress.epoch, progress.position, progress.skipped, progress.sums) == (1, 0, 0, {})


def test_an_epoch_without_a_good_step_has_no_loss():
    progress = TrainerState()
    progress.count(BAD)
    progress.close_epoch({"AP": None}, lr=0.5)
    assert progress.history[0]["loss"] is None
    assert progress.skipped_in_a_row == 1


def test_the_best_epoch_is_the_first_with_the_highest_ap():
    progress = TrainerState()
    image_errors = [progress.close_epoch({"AP": ap}, lr=0.5) for ap in (None, 0.1, 0.3, 0.2, 0.3)]
    assert image_errors == [True, True, True, False, False]
    assert progress.best == (0.3, 3)
