"""Progress of a run: everything that must be remembered between two steps."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainerState:
    """Progress of a run.

    Attributes
    ----------
    epoch, position : number of finished epochs, and of finished steps in the current epoch
    sums, counted, seconds : in the current epoch: sums of the losses, number of steps in these sums, and time in seconds
    skipped, skipped_in_a_row : number of steps without a finite gradient, which changed no weight: in the current epoch, and
        since the last step with a finite gradient
    history : one row per finished epoch, as in `metrics.jsonl`
    best : highest AP so far, and its epoch (0 = none yet)
    spent : seconds of the whole run so far, including evaluations
    evaluations : seconds of all evaluations together, and of the last one
    grad_accum_steps : number of parts that a batch is split into; more than in the recipe if memory ran out
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
        """Register a finished step with its losses and "gradient_norm"."""
        self.position += 1
        if not math.isfinite(losses["gradient_norm"]):
            self.skipped += 1
            self.skipped_in_a_row += 1
            return
        self.skipped_in_a_row = 0
        self.counted += 1
        for key, value in losses.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def close_epoch(self, figures: dict[str, float | None], lr: float, evaluated: bool = True) -> bool:
        """Finish the current epoch: add a row to the history and reset the counters.

        Parameters
        ----------
        figures : metrics of the epoch; None for each one that was not computed
        lr : learning rate of the last step
        evaluated : whether the epoch was evaluated

        Returns
        -------
        whether the epoch is the best so far
        """
        means = {key: value / self.counted for key, value in self.sums.items()}
        row = {"epoch": self.epoch + 1, "loss": None, **means, "lr": lr, "seconds": round(self.seconds, 3)}
        self.history.append({**row, "skipped_steps": self.skipped, **figures})
        ap = -1.0 if figures["AP"] is None else figures["AP"]
        is_best = evaluated and (
            ap > self.best[0] or ap == -1.0 == self.best[0] or self.best[1] == 0
        )  # without an AP the last one
        if is_best:
            self.best = (ap, self.epoch + 1)
        self.epoch, self.position, self.sums, self.counted, self.seconds, self.skipped = self.epoch + 1, 0, {}, 0, 0.0, 0
        return is_best
