"""Processes that load batches: start them, receive their batches, and raise an error if one of them fails or hangs."""

import multiprocessing
import multiprocessing.queues
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from conditional_detr.errors import RunError

POLL_SECONDS = 1.0  # interval at which a wait for a batch is interrupted
MAX_WAIT_SECONDS = 600.0  # longest wait for a batch before the run stops with an error
WITHOUT_PROCESSES = "--workers 0 loads images without further processes"


def lacking_for_processes() -> str | None:
    """Reason why this machine cannot start loader processes, or None. Their queues need semaphores in /dev/shm."""
    try:
        multiprocessing.Semaphore()
    except (OSError, ImportError) as error:
        return str(error)
    return None


def from_processes(loader: DataLoader[Any], while_waiting: Callable[[float], object]) -> Iterator[Any]:
    """Yield what the processes of a loader load, in order.

    Parameters
    ----------
    loader : loader with at least one process and `timeout=POLL_SECONDS`
    while_waiting : called about once a second while waiting for a batch, with the seconds waited so far. It may raise

    Raises
    ------
    RunError : a process could not be started, ended unexpectedly or does not answer
    """
    with _started(loader) as made, lost_process_named():
        since = time.monotonic()
        while True:
            try:
                found = next(made)
            except StopIteration:
                return
            except RuntimeError as error:
                if "timed out after" not in str(error):
                    raise
                waited = time.monotonic() - since
                while_waiting(waited)
                if waited > MAX_WAIT_SECONDS:
                    raise RunError(_silence(waited)) from None
                continue
            yield found
            since = time.monotonic()


@contextmanager
def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Context manager that starts the processes of a loader, and kills those that are left at its end."""
    others = set(multiprocessing.active_children())
    made: Any = None
    own: set[multiprocessing.process.BaseProcess] = set()
    try:
        with _without_main_script():
            made = iter(loader)
        own = set(multiprocessing.active_children()) - others
        yield made
    except (OSError, EOFError) as error:
        if made is not None:
            raise
        own = set(multiprocessing.active_children()) - others
        text = f"a process that loads images cannot be started ({error or type(error).__name__}): give fewer --workers"
        raise RunError(f"{text}; {WITHOUT_PROCESSES}") from None
    finally:
        with _without_sigchld_errors():
            for process in own:
                process.kill()  # PyTorch would wait up to 10 s for each process, and send SIGTERM, which they ignore
                process.join()
            if made is not None:
                made._shutdown_workers()


@contextmanager
def _without_sigchld_errors() -> Iterator[None]:
    """Context manager that disables PyTorch's SIGCHLD handler, which raises an error when a loader process ends."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, lambda number, frame: None) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def _without_main_script() -> Iterator[None]:
    """Context manager in which a new process does not run the user's script again.

    Where processes are not forked (macOS, Windows, and Linux since Python 3.14), Python runs the user's script in each of them.
    A loader does not need it. Without it, `train` also works in a script that lacks `if __name__ == "__main__":`.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextmanager
def lost_process_named() -> Iterator[None]:
    """Context manager that converts PyTorch's error about an ended loader process to a `RunError`.

    A signal handler raises it, so it may occur anywhere, not only while waiting for a batch.
    """
    try:
        yield
    except RuntimeError as error:
        text = f"{error.__cause__} {error}"  # the cause, if there is one, has more detail
        if not (found := re.search(r"DataLoader worker .*?(killed by signal: [\w ]+|exited unexpectedly)", text)):
            raise
        raise RunError(
            f"a process that loads images ended unexpectedly ({found[1]}), perhaps because memory ran out: give fewer "
            f"--workers; {WITHOUT_PROCESSES}"
        ) from None


def _silence(seconds: float) -> str:
    return (
        f"no batch has arrived for {seconds / 60:.0f} minutes: the processes that load images do not answer. Check that the "
        f"disk of the images can be read; {WITHOUT_PROCESSES}"
    )


def prepare_process(worker: int) -> None:
    """Prepare a process that loads batches.

    SIGINT and SIGTERM reach every process of a group. Only the main process handles them; its loader processes end with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]


def _send_error(queue: Any, error: Exception, item: tuple[int, Any]) -> None:
    """Send an error in place of a batch that could not be sent. Python only prints it, so the run would wait for the batch."""
    text = f"a process that loads images could not send a batch ({str(error) or type(error).__name__})"
    queue.put((item[0], RunError(f"{text}: give a smaller --batch; {WITHOUT_PROCESSES}")))


def sendable(images: Tensor) -> Tensor | np.ndarray:
    """Move pixels to shared memory. If it has no room, return an array, which is sent through a pipe and takes longer.

    Containers have 64 MB of shared memory by default.
    """
    try:
        images.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return images.numpy()
    return images
