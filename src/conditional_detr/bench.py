"""How fast models are on this machine: every source in a process of its own, all taking turns on the same pictures."""

import multiprocessing
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from conditional_detr.device import choose_device, set_threads
from conditional_detr.errors import ConditionalDETRError, ConfigError, ImageError, UnavailableError
from conditional_detr.inference.batches import Model, Prepared, detect, run_batch
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.engines import first_line
from conditional_detr.inference.made_pictures import made_pictures
from conditional_detr.preprocessing import Preprocessor, decode, is_url
from conditional_detr.weights import huggingface
from conditional_detr.weights.source import find_checkpoint

BATCHED_ROUNDS = 3
STAGES = ("decode", "prepare", "model", "finish")
Times = tuple[float, ...]  # seconds of each stage


class Measured(NamedTuple):
    """What was measured of one source.

    Attributes
    ----------
    source, engine : what was run, and by what
    latency_ms, latency_p95_ms : of one picture from its file to its boxes
    stages_ms : the median of each of `STAGES`
    pictures_per_second : in batches, with pictures decoded ahead
    peak_mb : of resident memory, above what the process took before the source was opened; what its engine takes by being
        imported counts. None where the system does not tell
    """

    source: str
    engine: str
    latency_ms: float
    latency_p95_ms: float
    stages_ms: tuple[float, ...]
    pictures_per_second: float
    peak_mb: float | None


class Ours:
    """A source as `Detector` runs it."""

    def __init__(self, source: str, runtime: str, device: str) -> None:
        self.model: Model = Detector(source, runtime, device).model
        self.engine = self.model.summary
        self.preprocessor = Preprocessor(self.model.preprocessor)

    def one(self, file: str) -> Times:
        clock = [time.perf_counter()]
        rgb = decode(file)
        clock.append(time.perf_counter())
        prepared = Prepared(0, rgb, self.preprocessor(rgb))
        clock.append(time.perf_counter())
        timed = _Timed(self.model)
        run_batch(timed, self.preprocessor, [prepared])
        clock.append(time.perf_counter())
        decoding, preparing, rest = np.diff(clock)
        return float(decoding), float(preparing), timed.seconds, float(rest) - timed.seconds

    def many(self, files: Sequence[str], batch: int) -> None:
        for _ in detect(self.model, files, batch):
            pass


class _Timed:
    """A model that looks at the clock."""

    def __init__(self, model: Model) -> None:
        self.model, self.seconds = model, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        started = time.perf_counter()
        output = self.model(*inputs, **options)
        _synchronise(self.model.device)
        self.seconds += time.perf_counter() - started
        return output


class Theirs:
    """A transformers folder as transformers runs it, in float32."""

    engine = "transformers"

    def __init__(self, source: str, runtime: str, device: str) -> None:
        import transformers

        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.device = choose_device(device)
        self.model = transformers.AutoModelForObjectDetection.from_pretrained(source, local_files_only=True)
        self.model = self.model.to(self.device).eval()
        try:
            kind: Any = transformers.AutoImageProcessor
            self.processor = kind.from_pretrained(source, local_files_only=True)
        except OSError:  # a folder without means the defaults
            self.processor = transformers.ConditionalDetrImageProcessor()

    def one(self, file: str) -> Times:
        clock = [time.perf_counter()]
        picture = decode(file)
        clock.append(time.perf_counter())
        inputs = self.processor(images=picture, return_tensors="pt").to(self.device)
        clock.append(time.perf_counter())
        output = self._run(inputs)
        clock.append(time.perf_counter())
        self._finish(output, [picture])
        clock.append(time.perf_counter())
        return tuple(float(seconds) for seconds in np.diff(clock))

    def many(self, files: Sequence[str], batch: int) -> None:
        for start in range(0, len(files), batch):
            pictures = [decode(file) for file in files[start : start + batch]]
            self._finish(self._run(self.processor(images=pictures, return_tensors="pt").to(self.device)), pictures)

    @torch.inference_mode()
    def _run(self, inputs: Any) -> Any:
        output = self.model(**inputs)
        _synchronise(self.device)
        return output

    def _finish(self, output: Any, pictures: Sequence[torch.Tensor]) -> None:
        sizes = [tuple(picture.shape[-2:]) for picture in pictures]
        self.processor.post_process_object_detection(output, threshold=0.3, target_sizes=sizes)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


KINDS: dict[str, Callable[[str, str, str], Ours | Theirs]] = {"ours": Ours, "theirs": Theirs}


def _serve(pipe: Connection, kind: str, source: str, runtime: str, device: str, threads: int) -> None:
    """A process: load, then measure what it is asked for, until it is asked for nothing more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    try:
        set_threads(threads)
        before = _resident_mb("VmRSS")
        subject = KINDS[kind](source, runtime, device)
        pipe.send(subject.engine)
        while (task := pipe.recv()) is not None:
            if isinstance(task, str):
                pipe.send(subject.one(task))
            else:
                started = time.perf_counter()
                subject.many(*task)
                pipe.send(time.perf_counter() - started)
        peak = _resident_mb("VmHWM")
        pipe.send(None if before is None or peak is None else peak - before)
    except ConditionalDETRError as error:
        pipe.send(error)
    except Exception as error:
        if kind == "ours":
            pipe.send(RuntimeError(f"running {source} failed:\n{traceback.format_exc()}"))  # a fault of ours
        else:
            pipe.send(UnavailableError(f"transformers cannot run {source}: {first_line(error)}"))


def _resident_mb(what: str) -> float | None:
    """Resident memory of this process, now (VmRSS) or at most (VmHWM); None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) / 1e3 for line in lines if line.startswith(what)), None)


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
        return UnavailableError(f"the process that ran {self.source} is gone: perhaps there was not enough memory")


@contextmanager
def _subjects(sources: Sequence[str], runtime: str, device: str, threads: int) -> Iterator[list[_Subject]]:
    """A process a source, and one more for transformers where a source is a folder of its."""
    context = multiprocessing.get_context("spawn")
    subjects = []
    wanted = [(kind, source) for source in sources for kind in _kinds(source)]
    try:
        for kind, source in wanted:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, kind, source, runtime, device, threads), daemon=True)
            process.start()
            there.close()
            subjects.append(_Subject(source, kind, process, here))
        yield subjects
    finally:
        for subject in subjects:
            subject.process.terminate()
            subject.process.join()


def _started(subjects: list[_Subject]) -> tuple[list[_Subject], list[str]]:
    """Those that could be loaded, and what runs them. Transformers' part is our addition: it is left out where it fails."""
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
    with_peer = path is not None and huggingface.claims(path) and find_spec("transformers")
    return ["theirs", "ours"] if with_peer else ["ours"]


def bench(
    sources: Sequence[str],
    pictures: Sequence[str] = (),
    rounds: int = 20,
    batch: int = 8,
    runtime: str = "auto",
    device: str = "auto",
    threads: int = 0,
) -> list[Measured]:
    """Measure several sources side by side.

    Parameters
    ----------
    sources : see `Detector`; a transformers folder is run by transformers too, where that is installed
    pictures : files; without any, made ones of 640 x 480 px
    rounds : pictures one by one, the sources taking turns; a first round is not counted
    batch : pictures a batch while pictures per second are measured
    threads : of each; 0 = as many as there are
    """
    if not sources:
        raise ConfigError("bench needs a source or more")
    if rounds < 1 or batch < 1:
        raise ConfigError(f"rounds and batch must be at least 1, not {rounds} and {batch}")
    with tempfile.TemporaryDirectory() as folder, _subjects(sources, runtime, device, threads) as subjects:
        files = list(pictures) or _made_files(Path(folder))
        _check(files)
        subjects, engines = _started(subjects)
        turns: list[list[Times]] = [[] for _ in subjects]
        for i in range(rounds + 1):
            for subject, times in zip(subjects, turns, strict=True):
                times.append(subject.ask(files[i % len(files)]))
        many = [files[i % len(files)] for i in range(max(rounds, 2 * batch))]
        tries = [[subject.ask((many, batch)) for subject in subjects] for _ in range(1 + BATCHED_ROUNDS)]
        rates = [len(many) / median(seconds) for seconds in zip(*tries[1:], strict=True)]
        peaks = [subject.ask(None) for subject in subjects]
    return [
        Measured(
            subject.source,
            engine,
            1e3 * median(map(sum, times[1:])),
            1e3 * float(np.percentile([sum(each) for each in times[1:]], 95)),
            tuple(1e3 * median(stage) for stage in zip(*times[1:], strict=True)),
            rate,
            peak,
        )
        for subject, engine, times, rate, peak in zip(subjects, engines, turns, rates, peaks, strict=True)
    ]


def _check(files: Sequence[str]) -> None:
    """All must be pictures; what is measured must not be a network."""
    if urls := [file for file in files if is_url(file)]:
        raise ConfigError(f"bench takes files, not addresses: {urls[0]}")
    for file in files:
        try:
            decode(file)
        except ImageError as error:
            raise ConfigError(f"bench wants pictures that can be read: {error}") from None


def table(measured: Sequence[Measured]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows for people."""
    columns = ["source", "run by", "ms", "p95 ms", "times faster", "pictures/s", "peak MB", *(f"{name} ms" for name in STAGES)]
    first = measured[0].latency_ms
    rows = [
        [
            m.source, m.engine, f"{m.latency_ms:.1f}", f"{m.latency_p95_ms:.1f}", f"{first / m.latency_ms:.2f}",
            f"{m.pictures_per_second:.1f}", "–" if m.peak_mb is None else f"{m.peak_mb:.0f}",
            *(f"{stage:.1f}" for stage in m.stages_ms),
        ]
        for m in measured
    ]  # fmt: skip
    return columns, rows


def _made_files(folder: Path) -> list[str]:
    files = []
    for i, picture in enumerate(made_pictures()):
        file = folder / f"{i}.jpg"
        Image.fromarray(np.asarray(picture)).save(file, quality=90)
        files.append(str(file))
    return files
