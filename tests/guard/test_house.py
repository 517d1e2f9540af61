"""Rules of the house that a machine can see."""

import ast
import doctest
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import conditional_detr

SOURCE = Path(conditional_detr.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(SOURCE)], "conditional_detr.") if not m.name.endswith("__main__"))


def test_public_names_are_sorted_there_and_documented():
    assert conditional_detr.__all__ == sorted(conditional_detr.__all__)
    for name in conditional_detr.__all__:
        assert getattr(conditional_detr, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        conditional_detr.nothing  # noqa: B018


def test_opening_the_door_loads_nothing_heavy():
    code = "import sys, conditional_detr, conditional_detr.cli; print([m for m in sys.modules if '.' not in m])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(ast.literal_eval(loaded)) & {
        "torch",
        "timm",
        "supervision",
        "accelerate",
        "numpy",
        "cv2",
        "scipy",
        "PIL",
        "matplotlib",
    }


def test_no_drawer_for_odds_and_ends():
    assert not {p.stem for p in SOURCE.rglob("*")} & {"utils", "util", "misc", "common", "helpers", "base"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not results.failed


def test_nothing_of_a_model_prints_or_reads_files():
    for file in (SOURCE / "model").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"print", "open"}, file


def test_scripts_of_the_benchmarks_import_what_there_is():
    for file in sorted((SOURCE.parents[1] / "benchmarks").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("conditional_detr"):
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    assert hasattr(module, name) or f"{node.module}.{name}" in MODULES, f"{file.name}: {node.module}.{name}"


SOCKETS = """
import json, socket, sys
def refuse(*a, **k): raise AssertionError("a socket was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from conditional_detr.cli.app import main
for tokens in json.loads(sys.argv[1]):
    try: main(tokens)
    except SystemExit as stop: assert not stop.code, tokens
"""


def test_no_verb_opens_a_connection_unasked(digits_folder, tmp_path):
    data, run = str(digits_folder), str(tmp_path / "r")
    verbs = [
        ["data", "digits", str(tmp_path / "d"), "--train", "1", "--valid", "1"],
        ["data", "convert", data, str(tmp_path / "c")],
        ["data", "split", data, str(tmp_path / "s"), "--valid", "0.3"],
        ["doctor", data],
        [
            "train",
            "--data",
            data,
            "--epochs",
            "1",
            "--imgsz",
            "64",
            "--workers",
            "0",
            "--output",
            run,
            "--set",
            "model.decoder_layers=1",
        ],
        ["eval", run, "--data", data, "--output", str(tmp_path / "e")],
        ["predict", run, data + "/valid", "--output", str(tmp_path / "p")],
        ["info", run],
        ["compare", run, "--output", str(tmp_path / "c")],
        ["explain", run, data + "/valid/00001.png", "--conf", "0.99", "--output", str(tmp_path / "x")],
    ]
    done = subprocess.run([sys.executable, "-c", SOCKETS, json.dumps(verbs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not done.stderr
