import subprocess
import sys

import pytest

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.training.artifacts.console_logger import ConsoleLogger, clock
from conditional_detr.training.artifacts.trainer_state import TrainerState
from conditional_detr.training.optim.run_schedule import RunSchedule

ROW = {"epoch": 1, "loss": 2.5, "AP": None, "AP50": 0.25, "seconds": 61.4, "skipped_steps": 2}


def test_piped_output_is_plain_lines(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("conditional_detr.training.artifacts.console_logger.time.monotonic", lambda: float(next(now)))
    logger = ConsoleLogger(RunSchedule(RecipeConfig(epochs=3), steps=10, images=5), batch=4)
    assert not logger.live
    with logger:
        logger.step(TrainerState(position=1), 2.0)
        logger.step(TrainerState(position=2), 2.0)
        logger.epoch(ROW, best=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  epoch 1/3 step 1/10  loss 2.000  ")
    assert "images/s  time left" in lines[0]
    assert lines[-1] == (
        "epoch 1/3  loss 2.500  AP n/a  AP50 0.250  61 s  (best so far)  (skipped steps without a finite gradient: 2)"
    )


def test_a_reader_who_goes_away_does_not_stop_a_run():
    code = """
from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.training.optim.run_schedule import RunSchedule
from conditional_detr.training.artifacts.console_logger import ConsoleLogger
import sys
logger = ConsoleLogger(RunSchedule(RecipeConfig(), 1, 1), 1)
for i in range(50_000): logger.say("a line of some length")
print("done", file=sys.stderr)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.readline()
    child.stdout.close()
    error = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 0
    assert error == "done\n"


@pytest.mark.parametrize(("seconds", "text"), [(-3.0, "0:00"), (75.0, "1:15"), (3661.0, "1:01:01")])
def test_clock(seconds: float, text: str):
    assert clock(seconds) == text


def test_figures_of_a_class_with_brackets_in_its_name_are_printed(capsys):
    from conditional_detr.cli.printing import print_metrics
    from conditional_detr.evaluation.coco import FIGURES, CocoMetrics

    print_metrics(
        CocoMetrics(**dict.fromkeys(FIGURES, 0.5), per_class={"[/x]": 0.25, "[red]cat": None}), {"AP": [0.4, 0.6], "AP50": None}
    )
    out = capsys.readouterr().out
    assert "95 % intervals for images of this kind: AP 0.400 to 0.600\n" in out
    assert "[/x]" in out
    assert "[red]cat" in out
