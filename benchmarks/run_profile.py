"""Show where the processor's time goes during a training run, and which share of the peak speed the network reaches.

Every 20 ms, the CPU time that each thread used since the last sample is added to the part of the run that the thread is in.
Linux only. A training step counts as three times the operations of a prediction, which is a little too many if stages of the
backbone are frozen. The peak is that of the fastest float32 product of two matrices with 1,024 rows and columns, on one thread.

    python benchmarks/run_profile.py DATA --minutes 20
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import torch

from conditional_detr import load_model, train
from conditional_detr.inference.model_cost import multiply_adds
from conditional_detr.training.train_step import make_step

SECONDS, SIDE, REPEATS = 0.02, 1024, 20
PARTS = [  # (end of the file name, function; "" = any) → part. The innermost frame that is listed counts
    ("images/decoding.py", "", "decoding images"),
    ("data/augmentation.py", "", "augmentation"),
    ("data/loader.py", "", "augmentation"),
    ("objective/matcher.py", "", "matching"),
    ("objective/losses.py", "", "losses"),
    ("objective/criterion.py", "", "losses"),
    ("objective/terms.py", "", "losses"),
    ("autograd/graph.py", "", "network, backward"),
    ("factory/build.py", "forward", "network, forward"),
    ("model/detr.py", "", "network, forward"),
    ("torch/optim", "", "optimiser"),
    ("optim/weight_average.py", "", "optimiser"),
    ("training/train_step.py", "_update", "optimiser"),
    ("evaluation/coco.py", "", "evaluation"),
    ("artifacts/finalize.py", "", "report"),
    ("artifacts/run_folder.py", "", "checkpoints"),
    ("artifacts/trainer_state.py", "", "checkpoints"),
    ("training/prepare.py", "", "start"),
    ("training/setup/", "", "start"),
]
NETWORK = ("network, forward", "network, backward")


def part_of(frame: FrameType | None) -> str:
    """The part of the run that a thread is in. Outer frames decide for what belongs to evaluation, report and start."""
    inner, outer = "", ""
    while frame is not None:
        name, function = frame.f_code.co_filename, frame.f_code.co_name
        for file, wanted, part in PARTS:
            if file in name and wanted in ("", function):
                inner = inner or part
                outer = part if part in ("evaluation", "report", "start") else outer
                break
        frame = frame.f_back
    return outer or inner or "other"


class Sampler(threading.Thread):
    """Adds up the CPU seconds of each part of a run until `stop` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stop, self.seconds, self.before = threading.Event(), Counter[str](), dict[int, float]()

    def run(self) -> None:
        while not self.stop.wait(SECONDS):
            frames = sys._current_frames()
            names = {thread.native_id: thread.ident for thread in threading.enumerate()}
            for task in Path("/proc/self/task").iterdir():
                native = int(task.name)
                try:
                    used = int((task / "schedstat").read_text().split()[0]) / 1e9
                except OSError:  # the thread has ended
                    continue
                spent, self.before[native] = used - self.before.get(native, 0.0), used
                if native == self.native_id:
                    self.seconds["this profile"] += spent
                elif native in names:
                    self.seconds[part_of(frames.get(names[native]))] += spent
                else:  # a thread of OpenMP
                    self.seconds["threads of operations"] += spent


def peak() -> float:
    """Floating point operations per second of the fastest matrix product on one thread."""
    torch.set_num_threads(1)
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(seconds)


def speed_of_step(run: Path) -> tuple[float, float]:
    """Floating point operations of a training step per image of the trained model's size, and its fastest time, seconds."""
    torch.set_num_threads(1)
    model = load_model(run)
    step, side = make_step(model, amp="off"), model.preprocessor.imgsz
    width = side * 4 // 3 // 32 * 32
    flops = 2 * 3 * multiply_adds(model.eval(), side, width)  # the gradients of inputs and of weights cost a forward pass each
    images = torch.randn(1, 3, side, width).contiguous(memory_format=torch.channels_last)
    target = {"labels": torch.zeros(12, dtype=torch.long), "boxes": torch.rand(12, 4) * 0.2 + 0.3}
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step(images, None, [target])
        seconds.append(time.perf_counter() - start)
    return float(flops), min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set with train and valid")
    parser.add_argument("--minutes", type=float, default=20.0, help="training time in minutes (default: 20)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 (default) = all available")
    parser.add_argument("--output", type=Path, help="run folder (default: a temporary one)")
    options = parser.parse_args()
    run = options.output or Path(tempfile.mkdtemp()) / "run"
    sampler = Sampler()
    sampler.start()
    train(options.data, "conditional-detr-tiny", run, minutes=options.minutes, threads=options.threads)
    sampler.stop.set()
    sampler.join()
    total = sum(sampler.seconds.values())
    print("| part | CPU seconds | share |\n|---|---|---|")
    for part, seconds in sampler.seconds.most_common():
        print(f"| {part} | {seconds:.0f} | {seconds / total:.1%} |")
    rest = 1 - sum(sampler.seconds[part] for part in (*NETWORK, "threads of operations")) / total
    print(f"not the network's arithmetic: {rest:.1%}")
    flops, seconds = speed_of_step(run)
    fastest = peak()
    share = flops / seconds / fastest
    speed = f"{flops / 1e9:.1f} GFLOP in {1000 * seconds:.0f} ms, {share:.0%} of {fastest / 1e9:.0f} GFLOP/s"
    print(f"a step of one image on one thread: {speed}")


if __name__ == "__main__":
    main()
