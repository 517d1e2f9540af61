"""The processes that load batches: how they start, how a batch travels, and what happens if one does not answer."""

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

POLL_SECONDS = 1.0  # a wait for a batch is interrupted this often
LONGEST_WAIT_SECONDS = 600.0  # without a batch, before a run gives up
WITHOUT_PROCESSES = "--workers 0 loads images without further processes"


def lacking_for_processes() -> str | None:
    """What this machine lacks to start processes that load; None = nothing. Their queues need semaphores in /dev/shm."""
    try:
        multiprocessing.Semaphore()
    except (OSError, ImportError) as error:
        return str(error)
    return None


def from_processes(loader: DataLoader[Any], while_waiting: Callable[[float], object]) -> Iterator[Any]:
    """What the processes of a loader load, in order.

    Parameters
    ----------
    loader : with at least one process, and `timeout=POLL_SECONDS`
    while_waiting : called about once a second while no batch comes, with the seconds waited so far. It may raise

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
                if waited > LONGEST_WAIT_SECONDS:
                    raise RunError(_silence(waited)) from None
                continue
            yield found
            since = time.monotonic()


@contextmanager
def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Context manager that starts the processes of a loader. At its end none of them is left, even if it does not answer."""
    others = set(multiprocessing.active_children())
    made: Any = None
    own: set[multiprocessing.process.BaseProcess] = set()
    try:
        with _without_script():
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
        with _ended_children_unnoticed():
            for process in own:
                process.kill()  # PyTorch waits up to 10 s for each, and sends SIGTERM, which they leave to the main process
                process.join()
            if made is not None:
                made._shutdown_workers()


@contextmanager
def _ended_children_unnoticed() -> Iterator[None]:
    """Context manager in which PyTorch's handler of SIGCHLD does not raise errors about ended processes."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, lambda number, frame: None) or signal.SIG_DFL
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def _without_script() -> Iterator[None]:
    """Context manager in which a new process does not run the user's script again.

    Where processes are spawned (macOS, Windows, and Linux since Python 3.14), Python runs the script in each of them, for the
    sake of what is defined in it. A loader needs nothing from it. So `train` also works in a script without
    `if __name__ == "__main__":`.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


@contextmanager
def lost_process_named() -> Iterator[None]:
    """Context manager that turns PyTorch's error about an ended process into ours. A signal raises it, at any moment."""
    try:
        yield
    except RuntimeError as error:
        text = f"{error.__cause__} {error}"  # the cause says more, if there is one
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
    """Send an error in place of a batch that could not be sent. Python prints it and sends nothing, so the run would wait."""
    text = f"a process that loads images could not send a batch ({str(error) or type(error).__name__})"
    queue.put((item[0], RunError(f"{text}: give a smaller --batch; {WITHOUT_PROCESSES}")))


def sendable(images: Tensor) -> Tensor | np.ndarray:
    """Pixels as they travel fastest: in shared memory if it has room for them, otherwise through a pipe.

    Containers have 64 MB of shared memory by default.
    """
    try:
        images.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return images.numpy()
    return images
