"""Places for images and memory for bodies, which all requests share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from conditional_detr.serving.limits import Limits, Refused
from conditional_detr.serving.metrics import Metrics


class Queue:
    """Counts the images in work and the bytes of their requests.

    A request takes a place for each image once its body is complete. So clients that send slowly do not block others.

    Parameters
    ----------
    limits : number of places, and bytes
    metrics : shows both
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self.images = self.bytes = 0

    def check(self, images: int = 1) -> None:
        """Check that there are places.

        Raises
        ------
        Refused : there are not enough
        """
        if self.images + images > self.limits.queue:
            raise Refused(503, "the server is busy: its queue is full", retry_after=1)

    @contextmanager
    def places(self, images: int) -> Iterator[None]:
        """Take places.

        Raises
        ------
        Refused : there are not enough
        """
        self.check(images)
        self._add(images=images)
        try:
            yield
        finally:
            self._add(images=-images)

    @contextmanager
    def memory(self) -> Iterator[Callable[[int], None]]:
        """Memory for a body: a function that takes more bytes. It raises `Refused` if all bodies together are too large."""
        held = 0

        def take(more: int) -> None:
            nonlocal held
            if self.bytes + more > self.limits.bodies_bytes:
                raise Refused(503, "the server is busy: too much is being sent to it at once", retry_after=1)
            held += more
            self._add(size=more)

        try:
            yield take
        finally:
            self._add(size=-held)

    def _add(self, images: int = 0, size: int = 0) -> None:
        self.images += images
        self.bytes += size
        self.metrics.queue.set(self.images)
        self.metrics.bodies.set(self.bytes)
