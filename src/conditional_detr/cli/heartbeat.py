"""Print progress lines to stderr during a long command, also in a pipe."""

import sys
import threading
import time

from conditional_detr.cli.printing import print_text

PAUSE_S = 5.0  # time between two lines


class Heartbeat:
    """Context manager that prints the current activity every 5 s. Call the object to set the activity.

    A thread prints the lines, because some library calls take minutes and have no callback.
    """

    def __init__(self, activity: str) -> None:
        self.activity, self.stream = activity, sys.stderr  # the stream at the start, because converters redirect stderr
        self.started, self.over = time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __call__(self, activity: str) -> None:
        self.activity = activity

    def __enter__(self) -> "Heartbeat":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _beat(self) -> None:
        while not self.over.wait(PAUSE_S):
            try:
                print_text(f"{time.monotonic() - self.started:.0f} s: {self.activity}", file=self.stream)
            except (OSError, ValueError):  # stderr is closed
                return
