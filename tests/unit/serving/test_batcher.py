"""Batches of the images of all clients."""

import threading
import time

import numpy as np
import pytest

from conditional_detr.inference.batching import PreparedImage
from conditional_detr.inference.tiles import Window
from conditional_detr.serving import batcher as module
from conditional_detr.serving.batcher import Batcher
from conditional_detr.serving.limits import Refused
from conditional_detr.serving.metrics import Metrics


def image(height: int = 4, width: int = 6, name: int = 0) -> PreparedImage:
    return PreparedImage(name, np.zeros((1, 1, 3), np.uint8), Window(0, 0, 1, 1), np.zeros((3, height, width), np.float32))


class Runs:
    """Stands for `run_batch`: remembers the batches, and can be held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.fault: Exception | None = None

    def __call__(self, model: object, group: list[PreparedImage]) -> list[dict[str, np.ndarray]]:
        assert len({each.image.shape for each in group}) == 1
        self.gate.wait(10)
        self.batches.append([each.position for each in group])
        if self.fault:
            raise self.fault
        return [{"number": np.array(each.position)} for each in group]


@pytest.fixture
def runs(monkeypatch) -> Runs:
    made = Runs()
    monkeypatch.setattr(module, "run_batch", made)
    return made


@pytest.fixture
def batcher(runs):
    made = Batcher(None, batch=3, wait_s=0.05, metrics=Metrics())
    yield made
    runs.gate.set()
    made.stop()


def test_images_of_several_clients_share_a_batch_and_each_gets_its_own_result(batcher, runs):
    futures = [batcher.detect([image(name=number)])[0] for number in range(3)]
    assert [int(each.result(5)["number"]) for each in futures] == [0, 1, 2]
    assert runs.batches == [[0, 1, 2]]


def test_images_of_a_request_that_was_given_up_are_forgotten_while_the_model_works(batcher, runs):
    runs.gate.clear()
    (running,) = batcher.detect([image()])
    while batcher._images:
        time.sleep(0.01)
    waiting, call = batcher.detect([image(name=1), image(name=2)]), batcher.call(lambda: None)
    assert (len(batcher._images), len(batcher._calls)) == (2, 1)
    assert all(each.cancel() for each in (waiting[0], call))
    assert (len(batcher._images), len(batcher._calls)) == (1, 0)
    runs.gate.set()
    assert [int(each.result(5)["number"]) for each in (running, waiting[1])] == [0, 2]


def test_a_batch_has_at_most_its_size_and_the_oldest_images_come_first(batcher, runs):
    runs.gate.clear()
    first = batcher.detect([image(name=0)])
    time.sleep(0.1)  # it is in the model now
    futures = batcher.detect([image(name=number) for number in range(1, 6)])
    runs.gate.set()
    for each in (*first, *futures):
        each.result(5)
    assert runs.batches == [[0], [1, 2, 3], [4, 5]]


def test_images_of_different_sizes_never_share_a_batch_and_none_starves(batcher, runs):
    futures = batcher.detect([image(4, 6, 0), image(8, 6, 1), image(4, 6, 2), image(8, 6, 3)])
    for each in futures:
        each.result(5)
    assert runs.batches == [[0, 2], [1, 3]]


def test_a_single_image_does_not_wait_for_others_longer_than_it_was_told(batcher, runs):
    started = time.monotonic()
    batcher.detect([image()])[0].result(5)
    assert 0.04 < time.monotonic() - started < 3


def test_a_fault_reaches_every_client_of_the_batch_and_the_next_batch_runs(batcher, runs):
    runs.fault = ValueError("broken")
    for each in batcher.detect([image(name=0), image(name=1)]):
        with pytest.raises(ValueError, match="broken"):
            each.result(5)
    runs.fault = None
    assert batcher.detect([image(name=7)])[0].result(5)["number"] == 7


def test_an_image_whose_client_left_is_not_run(batcher, runs):
    runs.gate.clear()
    first = batcher.detect([image(name=0)])[0]
    time.sleep(0.1)
    gone, waiting = batcher.detect([image(name=1), image(name=2)])
    assert gone.cancel()
    runs.gate.set()
    first.result(5)
    waiting.result(5)
    assert runs.batches == [[0], [2]]


def test_other_work_runs_in_the_thread_of_the_model(batcher):
    assert batcher.call(lambda: threading.current_thread().name).result(5) == "model"
    with pytest.raises(ZeroDivisionError):
        batcher.call(lambda: 1 / 0).result(5)


def test_other_work_takes_its_turn(batcher, runs):
    runs.gate.clear()
    first = batcher.detect([image(name=0)])
    time.sleep(0.1)  # it is in the model now
    images, order = batcher.detect([image(name=1)]), []
    calls = [batcher.call(lambda number=number: order.append((number, len(runs.batches)))) for number in range(3)]
    images += batcher.detect([image(8, 6, 2)])
    runs.gate.set()
    for each in (*first, *images, *calls):
        each.result(5)
    assert runs.batches == [[0], [1], [2]]
    assert order == [(0, 2), (1, 2), (2, 2)]


def test_stopping_finishes_what_was_accepted_and_accepts_nothing_more(runs):
    batcher = Batcher(None, batch=2, wait_s=60, metrics=Metrics())
    runs.gate.clear()
    futures = batcher.detect([image(name=number) for number in range(3)])
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    runs.gate.set()
    stopping.join(10)
    assert [each.done() for each in futures] == [True] * 3
    with pytest.raises(Refused, match="shutting down"):
        batcher.detect([image()])
