import pytest

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.optim.run_schedule import RunSchedule


def time_limited(minutes: float = 10, images: int = 20) -> RunSchedule:
    return RunSchedule(RecipeConfig(minutes=minutes, batch=2), steps=100, images=images)


def test_a_run_by_epochs_is_done_when_its_steps_are():
    plan = RunSchedule(RecipeConfig(epochs=4, schedule="cosine"), steps=10, images=5)
    assert plan.progress_fraction(TrainerState(epoch=1, position=5)) == pytest.approx(0.375)
    assert plan.progress_fraction(TrainerState(epoch=4)) == 1
    assert not plan.is_out_of_time(TrainerState(epoch=4, spent=1e9))
    assert plan.has_time_to_evaluate(TrainerState(epoch=1, spent=1.0, evaluations=(1e6, 1e6)))


def test_patience_ends_a_run_once_images_have_their_own_size():
    recipe = RecipeConfig(epochs=10, patience=2, progressive_resize_from=0.5, schedule="cosine")
    plan = RunSchedule(recipe, steps=10, images=5)
    assert not plan.is_over(TrainerState(epoch=5, best=(0.5, 2)))  # images still grow
    assert plan.is_over(TrainerState(epoch=8, best=(0.5, 6)))
    assert not plan.is_over(TrainerState(epoch=8, best=(0.5, 7)))
    assert not plan.is_over(TrainerState(epoch=8))  # nothing was judged yet
    assert plan.is_over(TrainerState(epoch=10))


def test_a_run_by_the_clock_keeps_time_back_for_its_last_evaluation_and_its_report():
    plan = time_limited()
    known = TrainerState(epoch=3, spent=300.0, evaluations=(20.0, 10.0))
    learning = 600 - 2 * 10 - 5
    assert plan.progress_fraction(known) == pytest.approx(300 / learning)
    assert not plan.is_out_of_time(TrainerState(spent=learning - 1.0, evaluations=(20.0, 10.0)))
    assert plan.is_out_of_time(TrainerState(spent=float(learning), evaluations=(20.0, 10.0)))


def test_before_an_evaluation_its_time_is_guessed_from_the_steps():
    plan = time_limited(images=200)
    progress = TrainerState(position=50, spent=50.0)  # two images a second: 200 are judged in about 50 s
    assert plan.progress_fraction(progress) == pytest.approx(50 / (600 - 2 * 50 - 5))
    slow = TrainerState(position=1, spent=30.0)  # the first step of all: as much as a third is kept back, not more
    assert plan.progress_fraction(slow) == pytest.approx(30 / 400)


def test_evaluations_take_a_tenth_of_the_time_and_the_last_is_never_left_out():
    plan = time_limited()
    assert not plan.has_time_to_evaluate(TrainerState(spent=150.0, evaluations=(10.0, 10.0)))
    assert plan.has_time_to_evaluate(TrainerState(spent=200.0, evaluations=(10.0, 10.0)))
    assert plan.has_time_to_evaluate(TrainerState(spent=599.0, evaluations=(100.0, 10.0)))
