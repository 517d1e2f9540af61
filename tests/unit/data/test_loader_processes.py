"""Processes that load: what they send arrives in any case, and one that does not answer ends the run with a message."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from conditional_detr.data import loader_processes
from conditional_detr.data.loader_processes import (
    POLL_SECONDS,
    from_processes,
    lacking_for_processes,
    lost_process_named,
    prepare_process,
    sendable,
)
from conditional_detr.errors import RunError


class Unsendable:
    def __reduce__(self):
        raise OSError(28, "No space left on device")


class Odd(Dataset):
    """Items that a process cannot send, never makes, or dies of."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int):
        if i == 1 and self.kind == "unsendable":
            return Unsendable()
        if i == 1 and self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 1 and self.kind == "exit":
            os._exit(1)
        if i == 1 and self.kind == "silent":
            time.sleep(1000)
        return i


def found(kind: str, while_waiting=lambda seconds: None, workers: int = 1) -> list:
    loader = DataLoader(
        Odd(kind), None, num_workers=workers, collate_fn=lambda item: item, worker_init_fn=prepare_process, timeout=POLL_SECONDS
    )
    items = []
    for item in from_processes(loader, while_waiting):
        if isinstance(item, Exception):
            raise item
        items.append(item)
    return items


def test_everything_arrives_in_order():
    assert found("usual", workers=2) == [0, 1, 2, 3]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "unsendable",
            r"could not send a batch \(\[Errno 28\] No space left on device\): give a smaller --batch; --workers 0",
        ),
        (
            "killed",
            r"ended unexpectedly \(killed by signal: Killed\), perhaps because memory ran out: give fewer --workers",
        ),
        ("exit", r"a process that loads images ended unexpectedly \(exited unexpectedly\)"),
        ("silent", r"no batch has arrived for 0 minutes: the processes that load images do not answer. Check that the disk"),
    ],
)
def test_a_process_that_does_not_answer_ends_the_run_with_a_message(monkeypatch, kind, text):
    monkeypatch.setattr(loader_processes, "MAX_WAIT_SECONDS", 1.5)
    with pytest.raises(RunError, match=text):
        found(kind)
    assert not multiprocessing.active_children()


def test_a_stop_is_heard_while_waiting_and_no_process_is_left():
    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found("silent", stop)
    assert not multiprocessing.active_children()


def test_a_process_that_cannot_be_started_is_named(monkeypatch):
    def refuse_to_fork(self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse_to_fork)
    with pytest.raises(
        RunError, match=r"cannot be started \(\[Errno 11\] Resource temporarily unavailable\): give fewer --workers"
    ):
        found("usual")


def test_what_a_machine_lacks_for_processes_is_known_before_they_start(monkeypatch):
    assert lacking_for_processes() is None

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Semaphore", full)
    assert lacking_for_processes() == "[Errno 28] No space left on device"


def test_an_error_of_another_kind_is_left_alone():
    with pytest.raises(RuntimeError, match="shapes"), lost_process_named():
        raise RuntimeError("shapes do not match")


def without_room(*_):
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")


def test_pixels_travel_in_shared_memory_or_where_it_has_no_room_as_an_array(monkeypatch):
    pixels = torch.rand(2, 3, 4, 5)
    assert sendable(pixels).is_shared()
    monkeypatch.setattr(torch.Tensor, "share_memory_", without_room)
    assert np.array_equal(sendable(pixels), pixels.numpy())
