"""Run a model in its own thread, on batches of the images of all clients."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from conditional_detr.inference.batching import Model, PreparedImage, run_batch
from conditional_detr.serving.limits import Refused
from conditional_detr.serving.metrics import Metrics

Record = dict[str, np.ndarray]  # detections of an image, see `postprocess`


class Waiting(NamedTuple):
    """A prepared image that waits for the model, since a time of `time.monotonic`."""

    prepared: PreparedImage
    since: float
    result: "Future[Record]"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the prepared image, px. Only images of one size share a batch."""
        return self.prepared.image.shape[-2], self.prepared.image.shape[-1]


class Batcher:
    """A thread that runs the model on waiting images, and does other work for the model between batches, the oldest first.

    Parameters
    ----------
    model : the model
    batch : largest batch size
    wait_s : longest time that an image waits for others of its size, in seconds
    metrics : counts batches and measures times
    """

    def __init__(self, model: Model, batch: int, wait_s: float, metrics: Metrics) -> None:
        self.model, self.batch, self.wait_s, self.metrics = model, batch, wait_s, metrics
        self._images: list[Waiting] = []
        self._calls: list[tuple[float, Callable[[], Any], Future[Any]]] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def detect(self, images: Sequence[PreparedImage]) -> "list[Future[Record]]":
        """Let the model detect objects in prepared images."""
        now = time.monotonic()
        waiting = [Waiting(image, now, Future()) for image in images]
        for each in waiting:
            each.result.add_done_callback(self._forget_cancelled)
        with self._changed:
            self._check_running()
            self._images += waiting
            self._changed.notify()
        return [each.result for each in waiting]

    def call(self, work: Callable[[], Any]) -> "Future[Any]":
        """Run a function in the thread of the model."""
        result: Future[Any] = Future()
        result.add_done_callback(self._forget_cancelled)
        with self._changed:
            self._check_running()
            self._calls.append((time.monotonic(), work, result))
            self._changed.notify()
        return result

    def stop(self) -> None:
        """End the thread after the work that has been accepted."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _forget_cancelled(self, result: "Future[Any]") -> None:
        """Free the images of a request that was given up, even while the model works on others."""
        if result.cancelled():
            with self._changed:
                self._images = [each for each in self._images if not each.result.cancelled()]
                self._calls = [each for each in self._calls if not each[2].cancelled()]

    def _check_running(self) -> None:
        if self._stopped:
            raise Refused(503, "the server is shutting down", retry_after=1)

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], None] | None:
        """Wait for the next work; None after `stop`, when nothing is left."""
        with self._changed:
            while True:
                if self._calls and (not self._images or self._calls[0][0] < self._images[0].since):
                    _, call, result = self._calls.pop(0)
                    return lambda: _run(call, result)
                if not self._images and self._stopped:
                    return None
                pause = self._time_left()
                if pause is not None and pause <= 0:
                    return self._batch_of_oldest()
                self._changed.wait(pause)

    def _time_left(self) -> float | None:
        """Seconds until the oldest image goes to the model without waiting for others; None = nothing waits."""
        if not self._images:
            return None
        oldest = self._images[0]
        is_full = sum(each.size == oldest.size for each in self._images) >= self.batch
        return 0 if is_full or self._stopped else oldest.since + self.wait_s - time.monotonic()

    def _batch_of_oldest(self) -> Callable[[], None]:
        size = self._images[0].size
        group = [each for each in self._images if each.size == size][: self.batch]
        taken = set(map(id, group))
        self._images = [each for each in self._images if id(each) not in taken]
        return lambda: self._run_batch([each for each in group if each.result.set_running_or_notify_cancel()])

    def _run_batch(self, group: list[Waiting]) -> None:
        if not group:
            return
        started = time.monotonic()
        for each in group:
            self.metrics.took("wait", started - each.since)
        try:
            records = run_batch(self.model, [each.prepared for each in group])
        except Exception as error:  # every client of the batch gets it
            for each in group:
                each.result.set_exception(error)
            return
        self.metrics.ran(len(group), time.monotonic() - started)
        for each, record in zip(group, records, strict=True):
            each.result.set_result(record)


def _run(call: Callable[[], Any], result: "Future[Any]") -> None:
    if not result.set_running_or_notify_cancel():
        return
    try:
        result.set_result(call())
    except Exception as error:  # belongs to who asked for it
        result.set_exception(error)
