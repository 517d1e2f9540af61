"""Measure latency, throughput and memory of several models on the same images."""

import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from conditional_detr.bench.runners import STAGES, Execution, Times, serve
from conditional_detr.errors import ConfigError, ImageError, UnavailableError
from conditional_detr.images.decoding import decode, is_url
from conditional_detr.images.synthetic import synthetic_images
from conditional_detr.inference.progress import Track, untracked
from conditional_detr.weights.recognise import find_checkpoint, is_huggingface

BATCHED_ROUNDS = 3  # measured rounds for throughput
DEFAULT_EXECUTION = Execution()


class Measured(NamedTuple):
    """Measurements of one source.

    Attributes
    ----------
    source, engine : the model, and the engine that ran it
    latency_ms, latency_p95_ms : median and 95th percentile of the time for one image, from file to boxes
    stages_ms : median time of each of `STAGES`
    images_per_second : throughput in batches, with images decoded in the background
    peak_mb : peak resident memory in MB, minus that of the process before the source was loaded; importing the engine counts.
        None if the operating system does not report it
    """

    source: str
    engine: str
    latency_ms: float
    latency_p95_ms: float
    stages_ms: tuple[float, ...]
    images_per_second: float
    peak_mb: float | None


class _Subject(NamedTuple):
    source: str
    kind: str
    process: Any
    pipe: Connection

    def ask(self, task: Any) -> Any:
        try:
            self.pipe.send(task)
        except OSError:
            raise self._gone() from None
        return self.answer()

    def answer(self) -> Any:
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _gone(self) -> UnavailableError:
        return UnavailableError(f"the process that ran {self.source} ended unexpectedly: perhaps there was not enough memory")


@contextmanager
def _subjects(sources: Sequence[str], execution: Execution) -> Iterator[list[_Subject]]:
    """Start one process per source, and another one with transformers for each transformers folder."""
    context = multiprocessing.get_context("spawn")
    subjects = []
    wanted = [(kind, source) for source in sources for kind in _kinds(source)]
    try:
        for kind, source in wanted:
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, kind, source, execution), daemon=True)
            process.start()
            there.close()
            subjects.append(_Subject(source, kind, process, here))
        yield subjects
    finally:
        for subject in subjects:
            subject.process.terminate()
            subject.process.join()


def _started(subjects: list[_Subject]) -> tuple[list[_Subject], list[str]]:
    """Wait until all processes have loaded. Returns those that succeeded, and the names of their engines.

    If loading with transformers fails, a note is printed and that process is left out, because the user did not ask for it.
    """
    answers: list[tuple[_Subject, str]] = []
    for subject in subjects:
        try:
            answers.append((subject, subject.answer()))
        except UnavailableError as error:
            if subject.kind == "ours":
                raise
            print(f"note: {error}", file=sys.stderr)
    return [subject for subject, _ in answers], [engine for _, engine in answers]


def _kinds(source: str) -> list[str]:
    from importlib.util import find_spec

    path = find_checkpoint(source)
    with_peer = path is not None and is_huggingface(path) and find_spec("transformers")
    return ["theirs", "ours"] if with_peer else ["ours"]


def bench(
    sources: Sequence[str],
    images: Sequence[str] = (),
    rounds: int = 20,
    batch: int = 8,
    execution: Execution = DEFAULT_EXECUTION,
    track: Track = untracked,
) -> list[Measured]:
    """Measure several sources on the same images.

    Parameters
    ----------
    sources : see `Detector`; a transformers folder is also run with transformers, if that is installed
    images : image files; none = synthetic images of 640 x 480 px
    rounds : number of single images for the latency. Sources alternate; the first round is a warm-up and not counted
    batch : batch size for the throughput
    execution : how each source is run
    track : shows the progress
    """
    if not sources:
        raise ConfigError("bench needs at least one source")
    if rounds < 1 or batch < 1:
        raise ConfigError(f"rounds and batch must be at least 1, not {rounds} and {batch}")
    with tempfile.TemporaryDirectory() as folder, _subjects(sources, execution) as subjects:
        files = list(images) or _made_files(Path(folder))
        _check(files)
        subjects, engines = _started(subjects)
        times = _stage_times(subjects, files, rounds, track)
        rates = _images_per_second(subjects, list(islice(cycle(files), max(rounds, 2 * batch))), batch, track)
        peaks = [subject.ask(None) for subject in subjects]
    return [_measured(*of_subject) for of_subject in zip(subjects, engines, times, rates, peaks, strict=True)]


def _stage_times(subjects: Sequence[_Subject], files: Sequence[str], rounds: int, track: Track) -> list[list[Times]]:
    """Stage times of each source in each round. Sources alternate; the first round is a warm-up and not counted."""
    shown = track(islice(cycle(files), rounds + 1), rounds + 1, "measuring latency")
    turns = [[subject.ask(file) for subject in subjects] for file in shown]
    return [list(times) for times in zip(*turns[1:], strict=True)]


def _images_per_second(subjects: Sequence[_Subject], files: list[str], batch: int, track: Track) -> list[float]:
    """Median throughput of each source. The first round is a warm-up and not counted."""
    rounds = track(range(1 + BATCHED_ROUNDS), 1 + BATCHED_ROUNDS, "measuring throughput")
    tries = [[subject.ask((files, batch)) for subject in subjects] for _ in rounds]
    return [len(files) / median(seconds) for seconds in zip(*tries[1:], strict=True)]


def _measured(subject: _Subject, engine: str, times: list[Times], rate: float, peak_mb: float | None) -> Measured:
    totals = [sum(stages) for stages in times]
    return Measured(
        source=subject.source,
        engine=engine,
        latency_ms=1e3 * median(totals),
        latency_p95_ms=1e3 * float(np.percentile(totals, 95)),
        stages_ms=tuple(1e3 * median(stage) for stage in zip(*times, strict=True)),
        images_per_second=rate,
        peak_mb=peak_mb,
    )


def _check(files: Sequence[str]) -> None:
    """Check that all inputs are readable image files, not URLs, whose download would be measured."""
    if urls := [file for file in files if is_url(file)]:
        raise ConfigError(f"bench takes files, not URLs: {urls[0]}")
    for file in files:
        try:
            decode(file)
        except ImageError as error:
            raise ConfigError(f"bench needs images that can be read: {error}") from None


def table(measured: Sequence[Measured]) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of the printed table."""
    columns = ["model", "description", "ms", "p95 ms", "speed-up", "images/s", "peak MB", *(f"{name} ms" for name in STAGES)]
    first = measured[0].latency_ms
    rows = [
        [
            m.source, m.engine, f"{m.latency_ms:.1f}", f"{m.latency_p95_ms:.1f}", f"{first / m.latency_ms:.2f}",
            f"{m.images_per_second:.1f}", "–" if m.peak_mb is None else f"{m.peak_mb:.0f}",
            *(f"{stage:.1f}" for stage in m.stages_ms),
        ]
        for m in measured
    ]  # fmt: skip
    return columns, rows


def _made_files(folder: Path) -> list[str]:
    files = []
    for i, image in enumerate(synthetic_images()):
        file = folder / f"{i}.jpg"
        Image.fromarray(np.asarray(image)).save(file, quality=90)
        files.append(str(file))
    return files
