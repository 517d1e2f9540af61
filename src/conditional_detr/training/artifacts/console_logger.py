"""Console output of a run: a progress bar in a terminal, plain lines otherwise."""

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from conditional_detr.storage.streams import steady
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.optim.run_schedule import RunSchedule

PLAIN_INTERVAL_SECONDS = 15.0


class ConsoleLogger:
    """Prints messages and progress. Used as a context manager, so that the progress bar is always closed."""

    def __init__(self, schedule: RunSchedule, batch: int, quiet: bool = False) -> None:
        self.schedule, self.steps, self.batch, self.quiet = schedule, schedule.steps, batch, quiet
        self.stream = steady(sys.stdout)
        self.live = self.stream.isatty() and not quiet
        self.console = Console(file=self.stream, highlight=False, emoji=False, quiet=not self.live)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            transient=True,
            disable=not self.live,
        )
        self.task = self.bar.add_task("", total=self.steps, text="")
        self.steps_done = 0
        self.started = self.spoken = time.monotonic()

    def __enter__(self) -> "ConsoleLogger":
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def say(self, text: str, style: str | None = None) -> None:
        """Print a permanent line, with a style of rich's in a terminal."""
        if self.live:
            self.console.print(text, markup=False, style=style)
        elif not self.quiet:
            print(text, file=self.stream, flush=True)

    def step(self, state: TrainerState, loss: float) -> None:
        """Report a finished step: update the progress bar, or print a line every 15 seconds."""
        self.steps_done += 1
        seconds = max(time.monotonic() - self.started, 1e-9)
        left = clock(self.schedule.seconds_left(state, self.steps_done, seconds))
        text = f"loss {loss:.3f}  {self.steps_done * self.batch / seconds:.1f} images/s"
        epoch = self._epoch(state.epoch + 1)
        if self.live:
            self.bar.update(self.task, description=epoch, completed=state.position, text=f"{text}  time left {left}")
        elif time.monotonic() - self.spoken > PLAIN_INTERVAL_SECONDS:
            self.spoken = time.monotonic()
            self.say(f"  {epoch} step {state.position}/{self.steps}  {text}  time left {left}")

    def _epoch(self, number: int) -> str:
        return f"epoch {number}" if self.schedule.time_limited else f"epoch {number}/{self.schedule.epochs}"

    def evaluating(self) -> None:
        if self.live:
            self.bar.update(self.task, text="evaluating")

    def epoch(self, row: dict[str, Any], best: bool, evaluated: bool = True) -> None:
        """Print the line of a finished epoch, with its metrics if it was evaluated."""
        self.spoken = time.monotonic()
        mark = "  (best so far)" if best else ""
        skipped = f"  (skipped steps without a finite gradient: {row['skipped_steps']})" if row["skipped_steps"] else ""
        figures = f"AP {figure(row['AP'])}  AP50 {figure(row['AP50'])}  " if evaluated else "not evaluated  "
        text = f"{self._epoch(row['epoch'])}  loss {figure(row['loss'])}  {figures}{row['seconds']:.0f} s{mark}{skipped}"
        self.say(text, "yellow" if skipped else "green" if best else None)


def figure(value: float | None) -> str:
    """Format a metric for printing."""
    return "n/a" if value is None else f"{value:.3f}"


def clock(seconds: float) -> str:
    """Format seconds as minutes or hours: 75 → "1:15"."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
