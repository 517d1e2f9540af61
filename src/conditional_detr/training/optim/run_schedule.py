"""How a run spends its epochs, or its minutes."""

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.optim.progressive_resize import mean_cost, size_factor

MOST_EVALUATING = 0.1  # of the time of a run that ends by the clock
EVALUATED_PER_LEARNED = 0.5  # cost of an image that is judged, in images that are learned from
MOST_KEPT_BACK = 1 / 3  # of the time: the first steps are slow, and a guess from them would be high
CLOSING_SECONDS = 5.0  # of a run: its report, beside evaluations


class RunSchedule:
    """What share of a run is done, and what there is time for. Everything follows from the state alone.

    A run of so many epochs evaluates after each; one of so many minutes where evaluations cost no more than a tenth, and at
    its end, for which it keeps time back.

    Parameters
    ----------
    recipe : `epochs`, `minutes` and `patience` are read
    steps : of an epoch
    images : to validate on
    """

    def __init__(self, recipe: RecipeConfig, steps: int, images: int) -> None:
        self.recipe, self.steps, self.images = recipe, steps, images
        self.epochs = recipe.epochs
        self.by_clock = recipe.minutes > 0

    def share_done(self, state: TrainerState) -> float:
        """Of the run, in [0, 1]. The paper's schedule of steps changes between epochs only."""
        if self.by_clock:
            return min(1.0, state.spent / max(self._seconds_to_learn(state), 1e-9))
        done = state.epoch * self.steps + (state.position if self.recipe.schedule == "cosine" else 0)
        return min(1.0, done / (self.steps * self.epochs))

    def is_over(self, state: TrainerState) -> bool:
        """Whether the run is done: its share is, or no better epoch came for `patience` epochs of images of their own size."""
        share, waited = self.share_done(state), state.epoch - state.best[1]
        out_of_patience = bool(self.recipe.patience and state.best[1]) and waited >= self.recipe.patience
        return share >= 1 or (out_of_patience and size_factor(share, self.recipe) == 1)

    def is_out_of_time(self, state: TrainerState) -> bool:
        """Whether an epoch must end where it is."""
        return self.by_clock and self.share_done(state) >= 1

    def has_time_to_evaluate(self, state: TrainerState) -> bool:
        """Whether a finished epoch is judged."""
        if not self.by_clock or self.is_out_of_time(state):
            return True
        return state.evaluations[0] + self._evaluation_seconds(state) <= MOST_EVALUATING * state.spent

    def seconds_left(self, state: TrainerState, steps: int, seconds: float) -> float:
        """Until the end, where the last so many steps took so many seconds."""
        if self.by_clock:
            return self._seconds_to_learn(state) - state.spent
        whole, done = self.epochs * self.steps, state.epoch * self.steps + state.position
        cost = mean_cost((done - steps) / whole, done / whole, self.recipe)
        return (whole - done) * seconds / steps * mean_cost(done / whole, 1.0, self.recipe) / cost

    def _seconds_to_learn(self, state: TrainerState) -> float:
        """What is left of the minutes when the last evaluation and the one for the report are taken away."""
        whole, closing = self.recipe.minutes * 60, 2 * self._evaluation_seconds(state) + CLOSING_SECONDS
        return whole - min(closing, MOST_KEPT_BACK * whole)

    def _evaluation_seconds(self, state: TrainerState) -> float:
        """What the last one took, or a guess from the steps so far."""
        total, last = state.evaluations
        if last:
            return last
        steps = state.epoch * self.steps + state.position
        seconds_per_image = (state.spent - total) / max(1, steps) / self.recipe.batch
        cost = mean_cost(0.0, state.spent / (self.recipe.minutes * 60), self.recipe)
        return EVALUATED_PER_LEARNED * self.images * seconds_per_image / cost
