"""Lines on stderr that show that a long command is at work, also in a pipe."""

import sys
import threading
import time

from conditional_detr.cli.printing import print_text

PAUSE_S = 5.0  # between two lines


class Heartbeat:
    """Prints every few seconds what is being done. Call it with what is being done, as often as that changes.

    The lines come from a thread, because some steps of a library take minutes and call nothing back.
    """

    def __init__(self, doing: str) -> None:
        self.doing, self.stream = doing, sys.stderr  # the stream of now: converters run with stderr redirected
        self.started, self.over = time.monotonic(), threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __call__(self, doing: str) -> None:
        self.doing = doing

    def __enter__(self) -> "Heartbeat":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _beat(self) -> None:
        while not self.over.wait(PAUSE_S):
            try:
                print_text(f"{time.monotonic() - self.started:.0f} s: {self.doing}", file=self.stream)
            except (OSError, ValueError):  # nobody reads stderr any more
                return
