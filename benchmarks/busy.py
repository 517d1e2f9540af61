"""Compare an idle machine with one whose cores other programs keep busy: one image through tiny, and a training step.

OpenMP's threads wait for each other in two ways: spinning, its default, or sleeping after some microseconds, as the command
line sets it. A process of each kind measures, in turns. In every round the machine is idle first and busy afterwards. Each
round starts new processes, because two processes of one kind can differ by 5 percent. Nothing else should run.

Command: python benchmarks/busy.py        Time: about 3 minutes on 2 cores.
"""

import argparse
import multiprocessing
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median, quantiles

from conditional_detr.device.threads import prepare_threads, usable_cores

WAITS = ("spinning", "sleeping")
TASKS = {"one image": 10, "training step": 2}  # name → times per round
MODEL = "conditional-detr-tiny"


def measure(pipe: Connection) -> None:
    """Main function of a measuring process: the seconds of each repetition of the tasks that come through the pipe."""
    import numpy as np
    import torch

    from conditional_detr import Detector, create_model, make_step

    torch.set_num_threads(usable_cores())
    generator = torch.Generator().manual_seed(0)
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    images = torch.randn(4, 3, 320, 416, generator=generator)
    targets = [{"labels": torch.tensor([1, 2]), "boxes": torch.rand(2, 4, generator=generator) * 0.3 + 0.3} for _ in images]
    detector = Detector(MODEL, runtime="torch", device="cpu")
    step = make_step(create_model(MODEL, num_classes=10, pretrained_backbone=False), amp="off")
    work = {"one image": lambda: detector(image), "training step": lambda: step(images, None, targets)}
    for run in work.values():
        run()
    pipe.send(None)
    while task := pipe.recv():
        seconds = []
        for _ in range(TASKS[task]):
            start = time.perf_counter()
            work[task]()
            seconds.append(time.perf_counter() - start)
        pipe.send(seconds)


def spin() -> None:
    """Another program that keeps a core busy."""
    while True:
        pass


@contextmanager
def others(count: int) -> Iterator[None]:
    """Context manager in which other programs keep cores busy."""
    programs = [multiprocessing.get_context("spawn").Process(target=spin, daemon=True) for _ in range(count)]
    for program in programs:
        program.start()
    time.sleep(0.5 if count else 0)
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.join()


def started(waiting: str) -> Connection:
    """A measuring process whose threads wait in one of the two ways."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        os.environ.pop(name, None)
    if waiting == "sleeping":
        prepare_threads()
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=measure, args=(there,), daemon=True).start()
    here.recv()
    return here


def main() -> None:
    """Measure and print the medians, the ratios of busy to idle, and of sleeping to spinning when idle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="rounds (default: 12)")
    options = parser.parse_args()
    found: dict[tuple[str, str, str], list[list[float]]] = defaultdict(list)
    for number in range(options.rounds):
        pipes = {waiting: started(waiting) for waiting in WAITS}
        for state, count in (("idle", 0), ("busy", usable_cores())):
            with others(count):
                for task in TASKS:
                    for waiting in WAITS if number % 2 else reversed(WAITS):
                        pipes[waiting].send(task)
                        found[task, waiting, state].append(pipes[waiting].recv())
        for pipe in pipes.values():
            pipe.send(None)
    load = f"{os.getloadavg()[2]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{usable_cores()} cores, {options.rounds} rounds, load over the last 15 minutes: {load}")
    for task in TASKS:
        for waiting in WAITS:
            idle, busy = ([s for times in found[task, waiting, state] for s in times] for state in ("idle", "busy"))
            print(
                f"{task}, {waiting}: idle {1e3 * median(idle):.0f} ms, busy {1e3 * median(busy):.0f} ms (95 % within "
                f"{1e3 * quantiles(busy, n=20)[-1]:.0f} ms), busy / idle {median(busy) / median(idle):.1f}"
            )
        pairs = zip(found[task, "sleeping", "idle"], found[task, "spinning", "idle"], strict=True)
        ratios = [median(sleeping) / median(spinning) for sleeping, spinning in pairs]
        sleeping, spinning = (min(s for times in found[task, waiting, "idle"] for s in times) for waiting in reversed(WAITS))
        print(
            f"{task}, idle: sleeping / spinning {median(ratios):.3f} (rounds: {min(ratios):.3f} to {max(ratios):.3f}), "
            f"the fastest of each {sleeping / spinning:.3f}"
        )


if __name__ == "__main__":
    main()
