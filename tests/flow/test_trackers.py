"""Experiment trackers: what TensorBoard and MLflow hold after a run, and that nothing else happens."""

import json
import os
import socket
from pathlib import Path

import pytest

from commands import run
from conditional_detr import train
from conditional_detr.errors import ConfigError, UnavailableError
from conditional_detr.training.artifacts import trackers

OPTIONS = {
    "model": "conditional-detr-tiny", "imgsz": 64, "batch": 4, "workers": 0, "device": "cpu", "quiet": True,
    "pretrained_backbone": False,
    "model_overrides": {"num_queries": 6, "encoder_layers": 0, "decoder_layers": 1},
}  # fmt: skip


@pytest.fixture
def offline(monkeypatch):
    """No socket is opened, whatever a tracker reports at home."""

    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in (*trackers.QUIET, "MLFLOW_TRACKING_URI", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_tensorboard_and_mlflow_hold_the_run(digits_folder, tmp_path, offline, capsys):
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "r"
    train(digits_folder, output=folder, epochs=1, log="mlflow, tensorboard", **OPTIONS)
    train(digits_folder, output=folder, epochs=2, resume=True, log="mlflow, tensorboard", **OPTIONS)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in ("loss", "AP", "AP50", "lr", "seconds"):
        assert [(each.step, pytest.approx(each.value, rel=1e-5)) for each in events.Scalars(name)] == [
            (row["epoch"], row[name]) for row in rows
        ]
    assert [image.step for image in events.Images("samples")] == [1, 2]

    client = MlflowClient((folder / "mlflow").as_uri())
    (experiment,) = [each for each in client.search_experiments() if each.name == "conditional-detr"]
    (one,) = client.search_runs([experiment.experiment_id])  # the resumed run is the same run
    assert one.info.run_name == "r"
    assert one.data.params["training.epochs"] == "1"
    assert one.data.params["model_overrides.num_queries"] == "6"
    history = client.get_metric_history(one.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(row["epoch"], row["loss"]) for row in rows]
    assert sorted(each.path for each in client.list_artifacts(one.info.run_id, "samples")) == [
        "samples/epoch-0001.png", "samples/epoch-0002.png",
    ]  # fmt: skip
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"
    assert "warning" not in capsys.readouterr().out


def test_samples_do_not_change_the_weights(digits_folder, tmp_path, offline):
    for name, log in (("plain", ""), ("logged", "tensorboard")):
        train(digits_folder, output=tmp_path / name, epochs=2, log=log, **OPTIONS)
    plain, logged = ((tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("plain", "logged"))
    assert plain == logged


def test_a_tracker_that_fails_does_not_end_the_run(digits_folder, tmp_path, monkeypatch, capsys):
    class Failing:
        tracker = None

        def store_init_configuration(self, values: dict) -> None:
            assert values["seed"] == 42

        def log(self, values: dict, step: int) -> None:
            raise ConnectionError("the server has gone")

        def finish(self) -> None:
            raise AssertionError("it is not called again")

    monkeypatch.setattr(trackers, "_started", lambda *_: Failing())
    done = train(digits_folder, output=tmp_path / "r", epochs=2, log="tensorboard", **OPTIONS | {"quiet": False})
    assert len(done.metrics) == 2
    assert capsys.readouterr().out.count("warning: nothing more is logged to tensorboard: the server has gone") == 1


def test_unknown_and_missing_trackers_are_refused_before_the_run(digits_folder, tmp_path, monkeypatch, capsys):
    with pytest.raises(ConfigError, match="log must be names out of tensorboard, mlflow, wandb, trackio.*not 'tensorbord'"):
        train(digits_folder, output=tmp_path / "r", epochs=1, log="tensorbord", **OPTIONS)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="--log wandb needs a package that is not installed: pip install wandb"):
        train(digits_folder, output=tmp_path / "r", epochs=1, log="wandb", **OPTIONS)
    assert not Path(tmp_path / "r").exists()
    code, _, err = run(capsys, "train", "--data", digits_folder, "--log", "x,mlflow", "--output", tmp_path / "r")
    assert code == 2
    assert "separated by commas, not 'x,mlflow'" in " ".join(err.split())
