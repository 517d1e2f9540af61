"""Compare the throughput of `cdetr serve` with that of `Detector` in batches of 8, on the same images.

The server, its clients and the detector each have a process of their own. All share the cores of this machine, also the
clients. Server and detector take turns, and the first of a round changes from round to round. `--busy` lets other programs
compute at the same time. With `--requests`, only the server runs, and its memory is printed at intervals.

Command: python benchmarks/serving.py                      Time: about 2 minutes on 2 cores.
         python benchmarks/serving.py --requests 20000     Time: about 20 minutes on 2 cores.
"""

import argparse
import http.client
import io
import multiprocessing
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import psutil
from busy import others
from PIL import Image

from conditional_detr.device.threads import usable_cores
from conditional_detr.images.synthetic import synthetic_images

MODEL, BATCH, SECONDS = "conditional-detr-tiny-shapes", 8, 60
IDLE_SECONDS = 1.0  # after which a client opens another connection
BOUNDARY = "part-of-a-form"


class Sent(NamedTuple):
    """What the clients saw: seconds of all requests together and of each, and the number of each kind of failure."""

    total: float
    each: list[float]
    failures: dict[str, int]


class Clients:
    """Clients of a server, each with a connection that stays open while it is used. They send the images in turns."""

    def __init__(self, port: int, files: list[Path]) -> None:
        self.port, self.here = port, threading.local()
        self.bodies = [self.form(file) for file in files]
        self.header = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

    @staticmethod
    def form(file: Path) -> bytes:
        """The body of a request with one image."""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{file.name}"\r\n\r\n'
        return head.encode() + file.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()

    def ask(self, number: int) -> tuple[float, str]:
        """Send a request. Returns its seconds, and what went wrong, or ""."""
        start = time.perf_counter()
        if start - getattr(self.here, "used", 0.0) > IDLE_SECONDS:  # the server may have closed the connection
            self.here.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            self.here.connection.request("POST", "/predict", self.bodies[number % len(self.bodies)], self.header)
            response = self.here.connection.getresponse()
            response.read()
            problem = "" if response.status == 200 else f"status {response.status}"
        except (OSError, http.client.HTTPException) as error:
            self.here.connection.close()
            problem = type(error).__name__
        self.here.used = time.perf_counter()
        return self.here.used - start, problem


def send(pipe: Connection, port: int, files: list[Path], clients: int) -> None:
    """Main function of the clients' process: sends as many requests as the pipe says, again and again."""
    work = Clients(port, files)
    with ThreadPoolExecutor(clients) as pool:
        while count := pipe.recv():
            start = time.perf_counter()
            found = list(pool.map(work.ask, range(count)))
            failures = Counter(problem for _, problem in found if problem)
            pipe.send(Sent(time.perf_counter() - start, [seconds for seconds, _ in found], dict(failures)))


def detect(pipe: Connection, model: str, files: list[Path]) -> None:
    """Main function of the detector's process: runs on as many images as the pipe says. Sends the seconds."""
    from conditional_detr import Detector

    detector = Detector(model)
    while count := pipe.recv():
        inputs = [str(files[i % len(files)]) for i in range(count)]
        start = time.perf_counter()
        detector(inputs, batch=BATCH)
        pipe.send(time.perf_counter() - start)


class Memory:
    """Resident memory of a process, sampled while it works, MB."""

    def __init__(self, process: int) -> None:
        self.process, self.peak = psutil.Process(process), 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def now(self) -> float:
        """The memory at this moment."""
        mb: float = self.process.memory_info().rss / 1e6
        self.peak = max(self.peak, mb)
        return mb

    def _watch(self) -> None:
        while self.process.is_running():
            self.now()
            time.sleep(0.1)


@contextmanager
def server(model: str, folder: Path) -> Iterator[tuple[int, Memory]]:
    """Context manager with a server: its port, and its memory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "conditional_detr", "serve", model, "--port", str(port)]
    with (folder / "log").open("w", encoding="utf-8") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_until_ready(port)
            yield port, Memory(process.pid)
        finally:
            process.terminate()


def wait_until_ready(port: int) -> None:
    """Wait until a server accepts requests."""
    for _ in range(10 * SECONDS):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"the server was not ready within {SECONDS} s")


def started(function: object, *given: object) -> Connection:
    """A process with this main function, and the pipe to it."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=function, args=(there, *given), daemon=True)  # type: ignore[arg-type]
    process.start()
    return here


def ask(pipe: Connection, count: int) -> Sent | float:
    """Let a process work on as many images."""
    pipe.send(count)
    answer: Sent | float = pipe.recv()
    return answer


def compare(clients: Connection, detector: Connection, options: argparse.Namespace) -> list[Sent]:
    """Print the throughput of both in each round, and the ratio."""
    per_round, sent, ratios = 4 * options.clients, [], []
    for pipe in (clients, detector):
        ask(pipe, options.clients)  # warm-up
    for number in range(options.rounds):
        order = [("server", clients), ("detector", detector)]
        found = {name: ask(pipe, per_round) for name, pipe in (order if number % 2 else reversed(order))}
        sent.append(found["server"])
        rates = per_round / found["server"].total, per_round / found["detector"]
        ratios.append(rates[0] / rates[1])
        print(
            f"round {number + 1}: server {rates[0]:.1f} a second, detector {rates[1]:.1f}, ratio {ratios[-1]:.2f}", flush=True
        )
    print(f"ratio {median(ratios):.2f} (rounds: {min(ratios):.2f} to {max(ratios):.2f})")
    return sent


def endure(clients: Connection, memory: Memory, options: argparse.Namespace) -> list[Sent]:
    """Print the memory of the server at intervals. The first is the warm-up."""
    sent, used = [], []
    part = max(options.clients, options.requests // 20)
    for first in range(0, options.requests, part):
        sent.append(ask(clients, min(part, options.requests - first)))
        used.append(memory.now())
        print(f"after {sum(len(each.each) for each in sent)} requests: {used[-1]:.0f} MB", flush=True)
    print(f"from {used[0]:.0f} to {used[-1]:.0f} MB, the largest of the second half / of the first {growth(used):.3f}")
    return sent


def growth(used: list[float]) -> float:
    """How much more memory the second half of the intervals takes."""
    half = max(1, len(used) // 2)
    return max(used[half:] or used) / max(used[:half])


def main() -> None:
    """Measure and print throughput, latency, memory and failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=MODEL, help=f"checkpoint, export or model name (default: {MODEL})")
    parser.add_argument("--images", type=Path, help="folder of images (default: synthetic JPEG files of 640 x 480 px)")
    parser.add_argument("--clients", type=int, default=32, help="clients at a time (default: 32)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds (default: 6)")
    parser.add_argument("--requests", type=int, default=0, help="only the server: this many requests, with its memory")
    parser.add_argument("--busy", type=int, default=0, help="cores that other programs keep busy (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, others(options.busy):
        folder = Path(name)
        files = images_of(options.images, folder)
        with server(options.model, folder) as (port, memory):
            clients = started(send, port, files, options.clients)
            if options.requests:
                sent = endure(clients, memory, options)
            else:
                detector = started(detect, options.model, files)
                sent = compare(clients, detector, options)
                detector.send(0)
            clients.send(0)
            report(sent, memory, options)


def images_of(folder: Path | None, made_in: Path) -> list[Path]:
    """The images to send."""
    if folder is not None:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for number, rgb in enumerate(synthetic_images()):
        stream = io.BytesIO()
        Image.fromarray(rgb).save(stream, "JPEG", quality=90)
        (made_in / f"{number}.jpg").write_bytes(stream.getvalue())
    return sorted(made_in.glob("*.jpg"))


def report(sent: list[Sent], memory: Memory, options: argparse.Namespace) -> None:
    """Print what the clients saw."""
    times = [1000 * seconds for each in sent for seconds in each.each]
    failures = sum((Counter(each.failures) for each in sent), Counter())
    rate = len(times) / sum(each.total for each in sent)
    print(f"{usable_cores()} cores, {options.busy} kept busy, {options.clients} clients")
    print(f"{len(times)} requests, {rate:.1f} a second; failures: {dict(failures) or 'none'}")
    print(f"time of a request: median {median(times):.0f} ms, 95 % within {quantiles(times, n=20)[-1]:.0f} ms")
    print(f"memory of the server: at most {memory.peak:.0f} MB")


if __name__ == "__main__":
    main()
