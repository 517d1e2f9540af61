"""Handling of Ctrl-C and SIGTERM: a run saves its state before it stops."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StopRequest:
    """Records whether a signal asked the run to stop.

    Attributes
    ----------
    requested : True after the first Ctrl-C or SIGTERM within `listening`. A second one stops the process immediately
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context manager in which the first signal sets `requested` instead of stopping the process."""

        def ask(number: int, frame: Any) -> None:
            self.requested = True
            signal.signal(number, before[signal.Signals(number)])

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, where Python allows no handlers
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
