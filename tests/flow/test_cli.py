"""The command line: what is printed, what is left, and how a wrong word is answered."""

import io
import json
import subprocess
import sys

import pytest
from PIL import Image

from commands import run
from conditional_detr.cli.printing import track
from conditional_detr.explaining.maps import explain
from conditional_detr.weights.save import save_model


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["trian"], "there is no command 'trian'. Did you mean train?"),
        (["data", "digit", "x"], "there is no command 'data digit'. Did you mean digits?"),
        (["train", "--epoch", "3"], "train has no option --epoch. Did you mean --epochs?"),
        (["train", "--epochs", "many", "--data", "x"], "--epochs must be a whole number, not 'many'"),
        (["train", "epochs=many", "data=x"], "--epochs must be a whole number, not 'many'"),
        (["train", "epoch=3", "--data", "x"], "train has no option epoch. Did you mean --epochs?"),
        (
            ["train", "model.num_queries=5"],
            "train has no option model.num_queries: use --set model.num_queries=VALUE",
        ),
        (["train", "cells"], "train does not expect 'cells': options are --name value or name=value"),
        (["train", "--epochs", "3", "epochs=4"], "--epochs is given twice"),
        (["info", "a", "b"], "info does not expect 'b'"),
        (["data", "digits", "d", "--seed", "-1"], "seed must be 0 or more, not -1"),
        (["train", "--data", "x", "--set", "model.backbone=resnet5"], "x is not a folder"),
        (["train", "--epochs", "3"], "train needs --data: the folder of a data set"),
        (["train", "--data", "x", "--set", "lrr=1"], "--set: there is no setting 'lrr'. Did you mean lr?"),
        (
            ["train", "--data", "x", "--set", "spatial_query=point"],
            "no setting 'spatial_query'. Did you mean model.spatial_query?",
        ),
        (["train", "--data", "x", "--set", "modle.lambda_q=block"], "Did you mean model.lambda_q?"),
        (["train", "--data", "x", "--set", "model.lamda_q=block"], "Did you mean model.lambda_q?"),
        (["train", "--data", "x", "--set", "model=3"], "model must be a name or a path, not 3"),
        (["train", "--lambda-q=block"], "train has no option --lambda-q: use --set model.lambda_q=VALUE"),
        (["train", "--model.lambda_q=block"], "use --set model.lambda_q=VALUE"),
        (["explain", "conditional-detr-tiny", "."], "explain takes one image, not .; predict takes folders and patterns"),
        (["explain", "conditional-detr-tiny", "no.png"], "no.png cannot be opened"),
        (["train", "--data", "x", "--set", "lr"], "--set expects key=value, not 'lr'"),
        (["train", "--data", "x", "--lr", "-1"], "train: lr must be greater than 0, not -1.0"),
        (["train", "--data", "x", "--set", "lr=-1"], "--set: lr must be greater than 0, not -1"),
        (["train", "--data", "x", "--set", "model.lambda_q=blok"], "--set, model: lambda_q must be 'diagonal'"),
        (["train", "--data", "x", "--recipe", "papr"], "there is no recipe 'papr'. Did you mean paper?"),
        (["train", "--data", "nowhere"], "nowhere is not a folder"),
        (["eval", "conditional-detr-tiny"], "eval needs --data: see cdetr eval --help"),
        (["eval", "nowhere", "--data", "x"], "nowhere is neither an existing path nor a model name"),
        (["predict", "conditional-detr-tiny"], "predict needs IMAGES: see cdetr predict --help"),
        (["predict", "runs/none", "x.jpg"], "runs/none is not an existing folder"),
        (["predict", "conditional-detr-tiny", "none.jpg"], "none.jpg: there is no such file or folder"),
        (["info"], "info needs SOURCE: see cdetr info --help"),
        (["doctor", "nowhere"], "nowhere does not exist: the data set must be a folder, or the YAML file of a YOLO data set"),
        (["doctor", ".", "--imgsz", "-5"], "doctor: imgsz must be"),
        (["data", "convert", "nowhere", "x"], "nowhere does not exist"),
        (["replay", "nowhere"], "nowhere is not a recorded step: a run saves them in its folder flight/"),
        (["train", "--data", "x", "--max-bad", "2"], "train: max_bad must be"),
        (["compare"], "compare needs RUNS: see cdetr compare --help"),
        (["compare", "none"], "none is not a run folder: it has no config.toml"),
        (["compare", "none", "--ap", "30"], "--ap must be above 0 and at most 1, not 30"),
        (["compare", "none", "--ap", "high"], "--ap must be a number, not 'high'"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line_with_exit_code_2(capsys, monkeypatch, tmp_path, tokens, text):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *tokens)
    assert code == 2
    assert text in err
    assert err.startswith("cdetr: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not out


@pytest.mark.parametrize("verb", ["", "train", "eval", "predict", "info", "compare", "explain", "demo", "data", "data digits"])
def test_every_verb_has_a_help(capsys, verb):
    code, out, err = run(capsys, *verb.split(), "--help")
    assert code == 0
    assert "Usage: cdetr" in out
    assert not err


def test_explaining_an_image(capsys, tmp_path, small_model):
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "a.png")
    small_model.preprocessor = small_model.preprocessor.model_copy(update={"imgsz": 32})
    save_model(small_model, tmp_path / "m")
    best = small_model.eval()  # a threshold that leaves a few
    top = [e.score for e in explain(best, str(tmp_path / "a.png"), conf=0, device="cpu")]
    code, out, err = run(
        capsys, "explain", tmp_path / "m", tmp_path / "a.png", "--conf", top[1] - 1e-6, "--output", tmp_path / "e"
    )
    assert (code, err) == (0, "")
    assert out.startswith("2 detections with a score of")
    assert out.count("px → ") == 2
    assert len(list((tmp_path / "e").glob("*.png"))) == 4
    code, out, _ = run(capsys, "explain", tmp_path / "m", tmp_path / "a.png", "--conf", 1, "--output", tmp_path / "n")
    assert code == 0
    assert "A lower --conf explains detections with lower scores" in out
    code, _, err = run(capsys, "explain", tmp_path / "m", tmp_path / "a.png", "--output", tmp_path / "a.png")
    assert code == 2
    assert "a.png is a file: --output needs a folder" in err


def test_from_data_to_predictions(capsys, tmp_path):
    data, output = tmp_path / "d", tmp_path / "r"
    code, out, _ = run(capsys, "data", "digits", data, "--train", 8, "valid=4", "--size", 64)
    assert code == 0
    assert "Wrote 8 training images and 4 validation images of 64 x 64 px" in out
    (tmp_path / "c.toml").write_text("batch = 4\nweight_decay = 0.01\n[model_overrides]\nnum_queries = 9\n")
    code, out, err = run(
        capsys, "train", f"data={data}", "--epochs=1", "imgsz=64", "--output", output, "--config", tmp_path / "c.toml",
        "--set", "model.decoder_layers=2", "--set", "clip_max_norm=0.5",
        "--workers", 0, "--device", "cpu", "--no-pretrained-backbone",
    )  # fmt: skip
    assert code == 0, err
    assert not err
    assert "epoch 1/1  loss" in out
    assert "random weights, as requested" in out
    config = (output / "config.toml").read_text()
    for text in ("num_queries = 9", "decoder_layers = 2", "clip_max_norm = 0.5", "batch = 4", "weight_decay = 0.01"):
        assert text in config
    code, out, _ = run(capsys, "eval", output, "--data", data, "--output", tmp_path / "e")
    assert code == 0
    assert all(name in out for name in ("AP50", "ARl", "class"))
    report = (tmp_path / "e" / "report.html").read_text()
    assert f"{output} on {data}" in report
    assert "4 images" in report
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert list(metrics) == [
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "APl",
        "AR1",
        "AR10",
        "AR100",
        "ARs",
        "ARm",
        "ARl",
        "per_class",
        "intervals",
    ]
    assert list(metrics["per_class"]) == [str(i) for i in range(10)]
    code, out, _ = run(capsys, "predict", output, data / "valid", "--conf", 0, "--output", tmp_path / "p")
    assert code == 0
    assert "detections in 4 images, score threshold 0.0" in out
    assert len(list((tmp_path / "p").glob("*.jpg"))) == 4
    code, out, _ = run(capsys, "info", output)
    assert code == 0
    assert "10: 0, 1, 2" in out
    assert "multiply-adds" in out
    code, out, err = run(capsys, "train", "--data", data, "--output", output)
    assert code == 2
    assert "Add --resume" in err


def test_a_finished_runs_own_config_repeats_it(capsys, tmp_path):
    run(capsys, "data", "digits", tmp_path / "d", "--train", 4, "--valid", 2, "--size", 64)
    common = ("--workers", 0, "--device", "cpu")
    parts = ("--set", "model.num_queries=5", "--set", "model.encoder_layers=0", "--set", "model.decoder_layers=1")
    run(
        capsys, "train", "--data", tmp_path / "d", "--epochs", 1, "--imgsz", 64, "--output", tmp_path / "a", *parts, *common,
        "--no-pretrained-backbone",
    )  # fmt: skip
    code, _, err = run(capsys, "train", "--config", tmp_path / "a" / "config.toml", "--output", tmp_path / "b", *common)
    assert code == 0, err
    first, second = ((tmp_path / name / "config.toml").read_text() for name in "ab")
    assert first.replace(str(tmp_path / "a"), "X") == second.replace(str(tmp_path / "b"), "X")
    assert (tmp_path / "a/best/model.safetensors").read_bytes() == (tmp_path / "b/best/model.safetensors").read_bytes()
    code, out, err = run(
        capsys, "compare", tmp_path / "a", tmp_path / "b", "--ap", 0.9, "--ap", 0.8, "--output", tmp_path / "c"
    )
    assert (code, err) == (0, "")
    assert out.count("> 1 epoch") == 4  # the same seed twice: two rows
    assert (tmp_path / "c" / "comparison.html").is_file()


def test_unreadable_inputs_are_named_counted_and_survived(capsys, small_model, tmp_path):
    save_model(small_model, tmp_path / "m")
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_text("no")
    code, out, err = run(capsys, "predict", tmp_path / "m", tmp_path / "in", "--output", tmp_path / "p")
    assert code == 0
    assert "in 1 image, " in out
    assert "bad.png cannot be read" in err
    assert "1 of 2 inputs could not be read" in err
    code, _, err = run(capsys, "predict", tmp_path / "m", tmp_path / "in" / "bad.png", "--output", tmp_path / "p")
    assert code == 2
    assert "none of the inputs could be read" in err


def test_a_model_name_is_said_to_be_untrained(capsys, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    code, _, err = run(capsys, "predict", "conditional-detr-tiny", tmp_path / "a.png", "--output", tmp_path / "p")
    assert code == 0
    assert "Its decoder has random weights" in err


def test_as_a_module_and_without_a_wall_of_text():
    done = subprocess.run(
        [sys.executable, "-m", "conditional_detr", "info", "conditional-detr-tiny"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert not done.stderr
    assert "trainable" in done.stdout


def test_tables_of_a_settings_file_must_be_tables(capsys, tmp_path):
    (tmp_path / "c.toml").write_text("model_overrides = 5\n")
    code, _, err = run(capsys, "train", "--data", "x", "--config", tmp_path / "c.toml")
    assert code == 2
    assert "model_overrides must be a table, as in [model_overrides], not 5" in err


def test_what_follows_two_dashes_is_a_file(capsys, tmp_path, monkeypatch, small_model):
    monkeypatch.chdir(tmp_path)
    save_model(small_model, "m")
    Image.new("RGB", (40, 30)).save("--conf=1.png")
    code, out, err = run(capsys, "predict", "m", "--conf", 0, "--", "--conf=1.png")
    assert (code, err) == (0, "")
    assert "in 1 image, " in out


def test_resume_needs_nothing_but_the_folder(capsys, tmp_path):
    run(capsys, "data", "digits", tmp_path / "d", "--train", 4, "--valid", 2, "--size", 64)
    parts = ("--set", "model.num_queries=5", "--set", "model.encoder_layers=0", "--set", "model.decoder_layers=1")
    common = ("--imgsz", 64, "--lr", 1e-3, "--device", "cpu", "--no-pretrained-backbone", "--threads", 1)
    run(capsys, "train", "--data", tmp_path / "d", "--epochs", 1, "--output", tmp_path / "r", *parts, *common)
    code, out, err = run(capsys, "train", "--output", tmp_path / "r", "--resume", "--epochs", 2, "--threads", 1)
    assert (code, err) == (0, "")
    assert "resuming in epoch 2, after step 0 of" in out
    assert "backbone" not in out
    assert "epoch 2/2" in out
    code, _, err = run(capsys, "train", "--output", tmp_path / "r", "--resume", "--imgsz", 96)
    assert code == 2
    assert "imgsz was 64, now 96" in err


@pytest.mark.parametrize("verb", [("data", "convert"), ("data", "split"), ("doctor", "--fix")])
def test_a_copy_into_a_folder_that_is_not_empty_is_refused_before_the_work(capsys, tmp_path, verb):
    run(capsys, "data", "digits", tmp_path / "d", "--train", 2, "--valid", 2, "--size", 64)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    words = (
        ("doctor", tmp_path / "d", "--fix", tmp_path / "out")
        if verb[0] == "doctor"
        else (*verb, tmp_path / "d", tmp_path / "out")
    )
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")  # nothing was read yet
    assert "the output must be a new or empty folder" in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_in_a_terminal_only(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(track(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    assert "reading" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(track(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    assert not sys.stderr.getvalue()
