"""Runners for the benchmark: this library, and transformers for comparison."""

import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from conditional_detr.device.choose import choose_device
from conditional_detr.device.threads import set_threads
from conditional_detr.errors import ConditionalDETRError, UnavailableError
from conditional_detr.images.decoding import decode, decode_array
from conditional_detr.inference.batching import Model, PreparedImage, detect, run_batch, stages_of
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.engines import first_line
from conditional_detr.inference.tiles import Window

STAGES = ("decode", "preprocess", "model", "postprocess")
Times = tuple[float, ...]  # seconds of each stage


class Execution(NamedTuple):
    """How a source is run: runtime and device as in `Detector`, and the number of CPU threads (0 = all cores)."""

    runtime: str = "auto"
    device: str = "auto"
    threads: int = 0


class LibraryRunner:
    """Run a source as `Detector` does."""

    def __init__(self, source: str, runtime: str, device: str) -> None:
        self.model: Model = Detector(source, runtime, device).model
        self.engine = self.model.summary
        self.prepare = stages_of(self.model).prepare

    def latency(self, file: str) -> Times:
        clock = [time.perf_counter()]
        rgb = decode_array(file)
        clock.append(time.perf_counter())
        whole = Window(0, 0, rgb.shape[1], rgb.shape[0])
        prepared = PreparedImage(0, rgb, whole, self.prepare(rgb, self.model.preprocessor))
        clock.append(time.perf_counter())
        timed = _Timed(self.model)
        run_batch(timed, [prepared])
        clock.append(time.perf_counter())
        decoding, preparing, rest = np.diff(clock)
        return float(decoding), float(preparing), timed.seconds, float(rest) - timed.seconds

    def throughput(self, files: Sequence[str], batch: int) -> None:
        for _ in detect(self.model, files, batch):
            pass


class _Timed:
    """A model that measures the time of its forward passes."""

    def __init__(self, model: Model) -> None:
        self.model, self.seconds = model, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        started = time.perf_counter()
        output = self.model(*inputs, **options)
        _synchronise(torch.device(self.model.device))
        self.seconds += time.perf_counter() - started
        return output


class TransformersRunner:
    """Run a transformers folder with transformers, in float32."""

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
        except OSError:  # the folder has no processor: use the defaults
            self.processor = transformers.ConditionalDetrImageProcessor()

    def latency(self, file: str) -> Times:
        clock = [time.perf_counter()]
        image = decode(file)
        clock.append(time.perf_counter())
        inputs = self.processor(images=image, return_tensors="pt").to(self.device)
        clock.append(time.perf_counter())
        output = self._run(inputs)
        clock.append(time.perf_counter())
        self._finish(output, [image])
        clock.append(time.perf_counter())
        return tuple(float(seconds) for seconds in np.diff(clock))

    def throughput(self, files: Sequence[str], batch: int) -> None:
        for start in range(0, len(files), batch):
            images = [decode(file) for file in files[start : start + batch]]
            self._finish(self._run(self.processor(images=images, return_tensors="pt").to(self.device)), images)

    @torch.inference_mode()
    def _run(self, inputs: Any) -> Any:
        output = self.model(**inputs)
        _synchronise(self.device)
        return output

    def _finish(self, output: Any, images: Sequence[torch.Tensor]) -> None:
        sizes = [tuple(image.shape[-2:]) for image in images]
        self.processor.post_process_object_detection(output, threshold=0.3, target_sizes=sizes)


KINDS: dict[str, Callable[[str, str, str], LibraryRunner | TransformersRunner]] = {
    "ours": LibraryRunner,
    "theirs": TransformersRunner,
}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def serve(pipe: Connection, kind: str, source: str, execution: Execution) -> None:
    """Main function of a benchmark process: load the source, then measure each task from the pipe until None arrives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops this one
    try:
        set_threads(execution.threads)
        before = _resident_mb("VmRSS")
        subject = KINDS[kind](source, execution.runtime, execution.device)
        pipe.send(subject.engine)
        while (task := pipe.recv()) is not None:
            if isinstance(task, str):
                pipe.send(subject.latency(task))
            else:
                started = time.perf_counter()
                subject.throughput(*task)
                pipe.send(time.perf_counter() - started)
        peak = _resident_mb("VmHWM")
        pipe.send(None if before is None or peak is None else peak - before)
    except ConditionalDETRError as error:
        pipe.send(error)
    except Exception as error:
        if kind == "ours":
            pipe.send(RuntimeError(f"running {source} failed:\n{traceback.format_exc()}"))  # a bug in this library
        else:
            pipe.send(UnavailableError(f"transformers cannot run {source}: {first_line(error)}"))


def _resident_mb(what: str) -> float | None:
    """Resident memory of this process in MB, current (VmRSS) or peak (VmHWM). None if the system does not report it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) / 1e3 for line in lines if line.startswith(what)), None)
