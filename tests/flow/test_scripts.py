"""Scripts without `if __name__ == "__main__":`, where Python runs them again in each process that it starts."""

import subprocess
import sys

import pytest

TRAIN = """
import multiprocessing, sys
multiprocessing.set_start_method("spawn")  # as on macOS and Windows
print("the script runs")
import conditional_detr as cdetr

parts = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 1, "hidden_dim": 32, "feedforward_dim": 48}
run = cdetr.train(data=sys.argv[1], output=sys.argv[2], epochs=1, imgsz=64, batch=4, workers=1, threads=1, device="cpu",
                  pretrained_backbone=False, model_overrides=parts)
print("epochs:", len(run.metrics))
"""
START = """
import multiprocessing
from conditional_detr.errors import RunError
from conditional_detr.training.execution.starting_process import refuse_in_starting_process

try:
    refuse_in_starting_process()
    print("may train")
except RunError as error:
    print("refused:", error)
if __name__ == "__main__":
    child = multiprocessing.get_context("{method}").Process(target=print, args=("the child's work",))
    child.start()
    child.join()
"""


def output_of(tmp_path, script: str, *arguments: object) -> str:
    file = tmp_path / "script.py"
    file.write_text(script)
    done = subprocess.run([sys.executable, str(file), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def test_a_script_without_a_guard_trains_with_processes_that_are_spawned(digits_folder, tmp_path):
    said = output_of(tmp_path, TRAIN, digits_folder, tmp_path / "r")
    assert said.count("the script runs") == 1
    assert said.endswith("epochs: 1\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows only spawns")
def test_a_forked_process_may_train(tmp_path):
    assert output_of(tmp_path, START.format(method="fork")) == "may train\nthe child's work\n"


def test_a_process_that_still_runs_the_script_of_its_parent_refuses_to_train(tmp_path):
    own, child, work = output_of(tmp_path, START.format(method="spawn")).splitlines()
    assert (own, work) == ("may train", "the child's work")
    assert child == (
        "refused: train was called while this process was starting: Python runs the script again in each process that it "
        'starts. Put the call below `if __name__ == "__main__":`'
    )
