"""Where a run is: what it has to remember between two steps."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainerState:
    """Where a run is.

    Attributes
    ----------
    epoch, position : finished epochs, and finished steps of the one under way
    sums, counted, seconds : of the epoch under way: losses added up, their number, time spent
    skipped, skipped_in_a_row : steps without a finite gradient, which moved no weight: in this epoch, and since the last
        good one
    history : a row a finished epoch, as in `metrics.jsonl`
    best : the highest AP so far and its epoch
    spent : seconds of the whole run so far, with its evaluations
    evaluations : seconds that went into evaluations, and into the last of them
    grad_accum_steps : in how many parts a batch is worked through, where memory asked for more than the recipe does
    """

    epoch: int = 0
    position: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: tuple[float, int] = (-1.0, 0)
    spent: float = 0.0
    evaluations: tuple[float, float] = (0.0, 0.0)
    grad_accum_steps: int = 1

    def count(self, losses: dict[str, float]) -> None:
        """A step is done, with these losses and "gradient_norm"."""
        self.position += 1
        if not math.isfinite(losses["gradient_norm"]):
            self.skipped += 1
            self.skipped_in_a_row += 1
            return
        self.skipped_in_a_row = 0
        self.counted += 1
        for key, value in losses.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def close_epoch(self, figures: dict[str, float | None], lr: float, judged: bool = True) -> bool:
        """The epoch under way is done, and judged unless there was no time for it; whether it is the best so far."""
        means = {key: value / self.counted for key, value in self.sums.items()}
        row = {"epoch": self.epoch + 1, "loss": None, **means, "lr": lr, "seconds": round(self.seconds, 3)}
        self.history.append({**row, "skipped_steps": self.skipped, **figures})
        ap = -1.0 if figures["AP"] is None else figures["AP"]
        is_best = judged and (ap > self.best[0] or self.best[1] == 0)
        if is_best:
            self.best = (ap, self.epoch + 1)
        self.epoch, self.position, self.sums, self.counted, self.seconds, self.skipped = self.epoch + 1, 0, {}, 0, 0.0, 0
        return is_best
