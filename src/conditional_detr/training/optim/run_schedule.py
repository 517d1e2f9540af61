"""Progress of a run, limited by epochs or by minutes: what is done, what is evaluated, and when the run ends."""

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.optim.progressive_resize import mean_cost, size_factor

MAX_EVALUATION_FRACTION = 0.1  # in a run with --minutes: maximum fraction of the time spent on evaluations
EVALUATION_COST = 0.5  # cost of evaluating an image, relative to a training step on it
MAX_RESERVED_FRACTION = (
    1 / 3
)  # maximum fraction of the time reserved for the end: estimates from the slow first steps are too high
CLOSING_SECONDS = 5.0  # time reserved for the report, in addition to the evaluations


class RunSchedule:
    """Decides how far a run has progressed and which epochs are evaluated. It depends only on the `TrainerState`.

    A run with `epochs` is evaluated after every epoch. A run with `minutes` is evaluated after an epoch only while
    evaluations take at most a tenth of the time, and always at the end. Time for the final evaluation is reserved.

    Parameters
    ----------
    recipe : uses `epochs`, `minutes`, `patience` and the fields of the schedule and of progressive resizing
    steps : number of steps per epoch
    images : number of validation images
    """

    def __init__(self, recipe: RecipeConfig, steps: int, images: int) -> None:
        self.recipe, self.steps, self.images = recipe, steps, images
        self.epochs = recipe.epochs
        self.time_limited = recipe.minutes > 0

    def progress_fraction(self, state: TrainerState) -> float:
        """Completed fraction of the run, in [0, 1]. With the schedule "step" it changes only between epochs."""
        if self.time_limited:
            return min(1.0, state.spent / max(self._seconds_to_learn(state), 1e-9))
        done = state.epoch * self.steps + (state.position if self.recipe.schedule == "cosine" else 0)
        return min(1.0, done / (self.steps * self.epochs))

    def is_over(self, state: TrainerState) -> bool:
        """Whether the run is complete.

        It also ends if AP has not improved for `patience` epochs, but not before images have their full size.
        """
        share, waited = self.progress_fraction(state), state.epoch - state.best[1]
        out_of_patience = bool(self.recipe.patience and state.best[1]) and waited >= self.recipe.patience
        return share >= 1 or (out_of_patience and size_factor(share, self.recipe) == 1)

    def is_out_of_time(self, state: TrainerState) -> bool:
        """Whether the current epoch must end now because the time is up."""
        return self.time_limited and self.progress_fraction(state) >= 1

    def has_time_to_evaluate(self, state: TrainerState) -> bool:
        """Whether a finished epoch is evaluated."""
        if not self.time_limited or self.is_out_of_time(state):
            return True
        return state.evaluations[0] + self._evaluation_seconds(state) <= MAX_EVALUATION_FRACTION * state.spent

    def seconds_left(self, state: TrainerState, steps: int, seconds: float) -> float:
        """Estimate the seconds until the end of training.

        Parameters
        ----------
        state : progress of the run
        steps : number of most recent steps that were timed
        seconds : time that these steps took
        """
        if self.time_limited:
            return self._seconds_to_learn(state) - state.spent
        whole, done = self.epochs * self.steps, state.epoch * self.steps + state.position
        cost = mean_cost((done - steps) / whole, done / whole, self.recipe)
        return (whole - done) * seconds / steps * mean_cost(done / whole, 1.0, self.recipe) / cost

    def _seconds_to_learn(self, state: TrainerState) -> float:
        """Training time in seconds: `minutes` less the time for the final evaluation, the report and its own evaluation."""
        whole, closing = self.recipe.minutes * 60, 2 * self._evaluation_seconds(state) + CLOSING_SECONDS
        return whole - min(closing, MAX_RESERVED_FRACTION * whole)

    def _evaluation_seconds(self, state: TrainerState) -> float:
        """Duration of the last evaluation or, before the first one, an estimate from the training steps so far."""
        total, last = state.evaluations
        if last:
            return last
        steps = state.epoch * self.steps + state.position
        seconds_per_image = (state.spent - total) / max(1, steps) / self.recipe.batch
        cost = mean_cost(0.0, state.spent / (self.recipe.minutes * 60), self.recipe)
        return EVALUATION_COST * self.images * seconds_per_image / cost
