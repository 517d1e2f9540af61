"""Each verb with a stdout that lacks the characters: exit code and files are those of a terminal with all of them."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conditional_detr.cli.app import main

CAT = "猫→"
SMALL = (
    "--imgsz",
    64,
    "--batch",
    4,
    "--workers",
    0,
    "--threads",
    1,
    "--no-pretrained-backbone",
    "--set",
    "model.decoder_layers=1",
)


@pytest.fixture(scope="module")
def foreign(digits_folder, tmp_path_factory) -> Path:
    """The digits with a class, an image and a folder in another alphabet, and with something for the doctor to say."""
    folder = tmp_path_factory.mktemp("data") / "データ"
    shutil.copytree(digits_folder, folder)
    for split in ("train", "valid"):
        file = folder / split / "_annotations.coco.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["categories"][0]["name"] = CAT
        content["images"][0]["file_name"] = f"{CAT}.png"
        (folder / split / "00001.png").rename(folder / split / f"{CAT}.png")
        content["annotations"][0]["bbox"][2] = -5
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


def printed(monkeypatch, encoding: str, *tokens: object) -> tuple[int, str]:
    """Exit code and output of a command whose stdout has an encoding."""
    kept = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(kept, encoding=encoding))
    code = 0
    try:
        main([str(token) for token in tokens])
    except SystemExit as stop:
        code = stop.code or 0
    return code, kept.getvalue().decode(encoding)


def test_no_verb_ends_for_what_it_prints(monkeypatch, foreign, tmp_path):
    run, image = tmp_path / "→", foreign / "valid" / f"{CAT}.png"
    commands = {
        "help": (0, ["--help"]),
        "doctor": (3, ["doctor", foreign]),
        "train": (0, ["train", "--data", foreign, "--epochs", 1, "--output", run, *SMALL]),
        "eval": (0, ["eval", run, "--data", foreign, "--output", tmp_path / "e"]),
        "predict": (0, ["predict", run, image, "--output", tmp_path / "p"]),
        "explain": (0, ["explain", run, image, "--conf", "0.99", "--output", tmp_path / "x"]),
        "compare": (0, ["compare", run, "--output", tmp_path / "c"]),
        "info": (0, ["info", run]),
        "convert": (0, ["data", "convert", foreign, tmp_path / "→c"]),
        "refusal": (2, ["predict", tmp_path / CAT, image]),
    }
    said = {}
    for name, (code, tokens) in commands.items():
        found, said[name] = printed(monkeypatch, "ascii", *tokens)
        assert found == code, (name, said[name])
    assert "best: epoch 1" in said["train"]
    assert "\\u732b->" in said["eval"]
    assert (run / "report.html").is_file()
    assert CAT in json.loads((tmp_path / "e" / "metrics.json").read_text(encoding="utf-8"))["per_class"]


def test_the_doctors_json_is_json_in_any_encoding(monkeypatch, foreign):
    found = {encoding: printed(monkeypatch, encoding, "doctor", foreign, "--json") for encoding in ("utf-8", "cp1252", "ascii")}
    assert {code for code, _ in found.values()} == {3}
    contents = [json.loads(text) for _, text in found.values()]
    assert contents[0] == contents[1] == contents[2]
    assert CAT in json.dumps(contents[0], ensure_ascii=False)


@pytest.mark.parametrize("place", ["closed pipe", "no stdout", "full disk"])
def test_a_command_whose_output_nobody_takes_does_its_work(digits_folder, tmp_path, place):
    """In a process of its own, whose exit code counts what Python does with its streams at the end."""
    copy = tmp_path / "c"
    arguments = [sys.executable, "-m", "conditional_detr", "data", "convert", str(digits_folder), str(copy)]
    if place == "no stdout":
        done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *arguments], stderr=subprocess.PIPE, text=True, check=False)
    elif place == "full disk":
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    else:
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
        os.close(writer)
    assert done.returncode == 0, done.stderr
    note = "note: the output cannot be written (No space left on device). The command continues without it\n"
    assert done.stderr == (note if place == "full disk" else "")
    assert (copy / "valid" / "_annotations.coco.json").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are texts on other systems")
def test_a_file_name_that_is_no_text_is_predicted_printed_and_written(monkeypatch, digits_folder, tmp_path):
    name = os.fsdecode(b"a\xff.png")
    shutil.copy(digits_folder / "valid" / "00001.png", tmp_path / name)
    found = printed(
        monkeypatch, "utf-8", "predict", "conditional-detr-tiny-digits", tmp_path / name, "--output", tmp_path / "p"
    )
    assert found[0] == 0
    rows = json.loads((tmp_path / "p" / "predictions.json").read_text(encoding="utf-8"))
    assert {Path(row["file_name"]).name for row in rows} == {name}
