"""A run from beginning to end, stopped and gone on with, fine-tuned."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from commands import run as run_command
from conditional_detr.data.index import load_split
from conditional_detr.data.loader import TrainingImages
from conditional_detr.errors import CheckpointError, ConditionalDETRError, ConfigError, DataError, RunError
from conditional_detr.evaluation.coco import coco_metrics, detections_of, evaluate
from conditional_detr.training.artifacts.nonfinite_dump import replay
from conditional_detr.training.artifacts.run_folder import RunFolder
from conditional_detr.training.execution.shared_evaluation import evaluate_together
from conditional_detr.training.prepare import Prepared, prepared_run
from conditional_detr.training.setup.resolve import requested
from conditional_detr.training.train_step import TrainStep
from conditional_detr.training.trainer import Run, Trainer, train
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.save import save_model

PARTS = {
    "num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 32, "feedforward_dim": 48, "dropout": 0.1,
}  # fmt: skip
OPTIONS = {
    "imgsz": 64, "batch": 4, "device": "cpu", "workers": 0, "threads": 1, "pretrained_backbone": False, "quiet": True,
    "model_overrides": PARTS, "recipe_overrides": {"warmup_steps": 2, "weight_average": 0.2},
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(digits_folder, tmp_path_factory):
    """A run of three epochs that was left alone."""
    return train(digits_folder, output=tmp_path_factory.mktemp("run") / "a", epochs=3, **OPTIONS)


def no_report(*_: object) -> None:
    """A report takes as long as these runs do: only `finished` has one."""


def fit(
    *paths: Any,
    change: Callable[[Prepared], Prepared] = lambda prepared: prepared,
    evaluate: Callable = evaluate_together,
    finalize: Callable = no_report,
    **options: Any,
) -> Run:
    """`train` with other collaborators than its own; the paths are data, model and output."""
    given = dict(zip(("data", "model", "output"), paths, strict=False)) | options
    with prepared_run(requested(given)) as prepared:
        return Trainer(change(prepared), evaluate=evaluate, finalize=finalize).fit()


class StepWith(TrainStep):
    """A step before which something happens: it gets the step, its number from 1 on, and the images, and returns images."""

    def __init__(self, step: TrainStep, before: Callable) -> None:
        super().__init__(step.gradients, step.optimizer, step.clip_max_norm)
        self.before, self.number = before, 0

    def __call__(self, images, *rest):
        self.number += 1
        return super().__call__(self.before(self, self.number, images), *rest)


def before_step(before: Callable) -> Callable[[Prepared], Prepared]:
    return lambda prepared: dataclasses.replace(prepared, step=StepWith(prepared.step, before))


def test_a_run_leaves_what_it_should(finished, digits_folder):
    folder = finished.folder
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {
        "best/model.safetensors", "best/config.json", "last/model.safetensors", "last/config.json", "config.toml",
        "metrics.jsonl", "metrics.json", "predictions.json", "report.html", "train_batch.jpg", "fingerprint.json",
    } <= names  # fmt: skip
    assert not [name for name in names if ".new" in name or ".old" in name]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == finished.metrics
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"loss", "loss_ce", "loss_bbox", "loss_giou", "loss_ce_0", "lr", "seconds", "AP", "AP50", "ARl"} <= set(rows[0])
    assert rows[-1]["loss"] < rows[0]["loss"]
    with Image.open(folder / "train_batch.jpg") as image:
        assert min(image.size) > 480
    model = load_model(folder)
    assert model.class_names == [str(i) for i in range(10)]
    assert model.category_ids == list(range(1, 11))
    assert model.thresholds is None or len(model.thresholds) == 10
    best = max(row["AP"] for row in rows)
    metrics = evaluate(folder, digits_folder)
    assert pytest.approx(best, abs=1e-9) == metrics.AP
    written = json.loads((folder / "metrics.json").read_text())
    low, high = written.pop("intervals")["AP"]
    assert written == metrics.to_dict()
    assert low <= metrics.AP <= high
    settings = tomllib.loads((folder / "config.toml").read_text())
    assert settings["amp"] in ("off", "bf16")
    assert settings["threads"] >= 1
    detections = json.loads((folder / "predictions.json").read_text())
    assert coco_metrics(digits_folder / "valid" / "_annotations.coco.json", detections) == metrics
    report = (folder / "report.html").read_text()
    assert "Training run a" in report
    assert f"<b>AP {metrics.AP:.3f}</b> (95 % interval {low:.3f} to {high:.3f})" in report
    assert "paper" not in report.split("Settings")[0]
    assert "fast: batch 4" in report


def test_a_fault_of_the_report_is_said_and_costs_the_run_nothing(digits_folder, tmp_path, capsys):
    def fault(*_):
        raise RunError("an image has gone")

    run = fit(digits_folder, output=tmp_path / "r", epochs=1, finalize=fault, **{**OPTIONS, "quiet": False})
    assert len(run.metrics) == 1
    assert "no report written (training itself is complete): an image has gone" in capsys.readouterr().out


def test_the_report_of_a_shorter_run_does_not_outlive_it(digits_folder, tmp_path):
    made = []

    def report(folder, *_):
        made.append((folder.path / "report.html").write_text("x"))

    options = {**OPTIONS, "output": tmp_path / "r", "finalize": report}
    fit(digits_folder, epochs=1, **options)
    fit(digits_folder, epochs=1, resume=True, **options)
    assert len(made) == 1
    fit(digits_folder, epochs=2, resume=True, **options)
    assert len(made) == 2
    (tmp_path / "r" / "report.html").unlink()
    fit(digits_folder, epochs=2, resume=True, **options)
    assert len(made) == 3


def same_weights(a, b) -> bool:
    ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (a, b))
    return all((ours[key] - theirs[key]).abs().max() <= 1e-6 for key in ours)


def test_the_same_command_and_the_config_of_a_run_give_the_same_weights_to_the_last_bit(
    finished, digits_folder, tmp_path, capsys
):
    fit(digits_folder, output=tmp_path / "b", epochs=3, **OPTIONS)
    config = finished.folder / "config.toml"
    code, _, err = run_command(capsys, "train", "--config", config, "--output", tmp_path / "c")
    assert code == 0, err
    for other in (tmp_path / "b", tmp_path / "c"):
        for part in ("last", "best"):
            ours, theirs = (load_file(folder / part / "model.safetensors") for folder in (finished.folder, other))
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        prints = [json.loads((folder / "fingerprint.json").read_text()) for folder in (finished.folder, other)]
        assert prints[0] == prints[1]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_that_goes_on_equals_one_that_was_left_alone(finished, digits_folder, tmp_path, signal_number):
    def stop(step, number, images):
        if number == 5:  # in the middle of the second epoch
            os.kill(os.getpid(), signal_number)
        return images

    handler = signal.getsignal(signal_number)
    with pytest.raises(KeyboardInterrupt):
        fit(digits_folder, output=tmp_path / "b", epochs=3, change=before_step(stop), **OPTIONS)
    state = json.loads((tmp_path / "b" / "last" / "state.json").read_text())
    assert (state["epoch"], state["position"]) == (1, 2)
    assert signal.getsignal(signal_number) is handler
    torch.manual_seed(123)
    run = fit(digits_folder, output=tmp_path / "b", epochs=3, resume=True, **OPTIONS)
    assert same_weights(finished.folder, run.folder)
    for ours, theirs in zip(run.metrics, finished.metrics, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["lr"] == theirs["lr"]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_while_waiting_for_a_batch_is_heard_and_loses_nothing(digits_folder, tmp_path, monkeypatch, signal_number):
    """The process that loads images hangs after the first batch, as on a network drive that does not answer."""
    usual = TrainingImages.__getitem__

    def hang(dataset, key):
        if dataset.asked == 4:
            os.kill(os.getppid(), signal_number)
            time.sleep(1000)
        dataset.asked += 1
        return usual(dataset, key)

    monkeypatch.setattr(TrainingImages, "asked", 0, raising=False)  # the process is forked and counts by itself
    monkeypatch.setattr(TrainingImages, "__getitem__", hang)
    with pytest.raises(KeyboardInterrupt):
        fit(digits_folder, output=tmp_path / "b", epochs=1, **OPTIONS | {"workers": 1})
    state = json.loads((tmp_path / "b" / "last" / "state.json").read_text())
    assert (state["epoch"], state["position"]) == (0, 1)
    assert not multiprocessing.active_children()


def test_without_room_for_semaphores_a_run_loads_by_itself_and_says_so(digits_folder, tmp_path, monkeypatch, capsys):
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Semaphore", full)
    fit(digits_folder, output=tmp_path / "b", epochs=1, **OPTIONS | {"workers": 2, "quiet": False})
    said = "warning: no processes that load images can be started here ([Errno 28] No space left on device): this process loads"
    assert said in capsys.readouterr().out


def test_a_stop_while_evaluating_loses_nothing(finished, digits_folder, tmp_path):
    calls = []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate_together(*arguments)

    with pytest.raises(KeyboardInterrupt):
        fit(digits_folder, output=tmp_path / "b", epochs=3, evaluate=stopping, **OPTIONS)
    run = fit(digits_folder, output=tmp_path / "b", epochs=3, resume=True, **OPTIONS)
    assert same_weights(finished.folder, run.folder)
    assert [row["lr"] for row in run.metrics] == [row["lr"] for row in finished.metrics]


def test_a_fault_while_evaluating_costs_no_step(finished, digits_folder, tmp_path):
    def fall(*_):
        raise DataError("a validation image is broken")

    with pytest.raises(DataError, match="is broken"):
        fit(digits_folder, output=tmp_path / "b", epochs=3, evaluate=fall, **OPTIONS)
    state = json.loads((tmp_path / "b" / "last" / "state.json").read_text())
    assert (state["epoch"], state["position"]) == (0, 3)
    (tmp_path / "b" / "last" / ".DS_Store").touch()  # somebody looked
    run = fit(digits_folder, output=tmp_path / "b", epochs=3, resume=True, **OPTIONS)
    assert same_weights(finished.folder, run.folder)
    assert [row["lr"] for row in run.metrics] == [row["lr"] for row in finished.metrics]


def test_processes_share_the_validation_images(finished, digits_folder):
    model, index = load_model(finished.folder), load_split(digits_folder, "valid")
    whole, skipped = detections_of(model, index, batch=2)
    assert skipped == {}
    halves = [row for rank in range(2) for row in detections_of(model, index, 2, slice(rank, None, 2))[0]]
    order = lambda row: (row["image_id"], -row["score"], row["category_id"])  # noqa: E731
    for ours, theirs in zip(sorted(halves, key=order), sorted(whole, key=order), strict=True):
        assert ours["image_id"] == theirs["image_id"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_more_epochs_go_on_and_a_finished_run_stays(digits_folder, tmp_path, capsys):
    options = {**OPTIONS, "quiet": False}
    fit(digits_folder, output=tmp_path / "r", epochs=1, resume=True, **options)
    assert "contains no run to resume: starting a new run" in capsys.readouterr().out
    assert len(fit(digits_folder, output=tmp_path / "r", epochs=2, resume=True, **options).metrics) == 2
    before = (tmp_path / "r" / "last" / "model.safetensors").stat().st_mtime_ns
    assert len(fit(digits_folder, output=tmp_path / "r", epochs=2, resume=True, **options).metrics) == 2
    assert "is finished: 2 epochs" in capsys.readouterr().out
    assert (tmp_path / "r" / "last" / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_on_resume_are_named(finished, digits_folder):
    with pytest.raises(RunError, match=r"started with other settings: .*seed was 42, now 1.*only epochs"):
        fit(digits_folder, output=finished.folder, epochs=3, resume=True, seed=1, **OPTIONS)


def test_settings_that_were_taken_away_are_named_and_nothing_is_changed(digits_folder, tmp_path):
    fit(digits_folder, output=tmp_path / "r", epochs=1, **OPTIONS)
    with pytest.raises(RunError, match=r"started with other settings: model_overrides.decoder_layers was 2, now None"):
        fit(digits_folder, output=tmp_path / "r", epochs=2, resume=True, **{**OPTIONS, "model_overrides": {}})
    run = fit(str(digits_folder) + "/", output=tmp_path / "r", epochs=2, resume=True, **OPTIONS)
    assert len(run.metrics) == 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": "conditional-detr-r5"}, "Did you mean conditional-detr-r50?"),
        ({"model_overrides": {"num_querys": 3}}, "Did you mean num_queries?"),
        ({"device": "cuda:77"}, "the device 'cuda:77' is not available"),
        ({"model_overrides": {"backbone": "resnet5"}}, "timm has no network 'resnet5'"),
    ],
)
def test_a_run_that_cannot_begin_leaves_nothing_behind(digits_folder, tmp_path, change: dict, text: str):
    with pytest.raises(ConditionalDETRError) as caught:
        fit(digits_folder, output=tmp_path / "r", epochs=1, **{**OPTIONS, **change})
    assert text in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_the_best_epoch_by_ap_is_kept(digits_folder, tmp_path):
    aps, saved = iter([0.1, 0.3, 0.2]), []

    def evaluate(*arguments):
        metrics, skipped = evaluate_together(*arguments)
        return dataclasses.replace(metrics, AP=next(aps)), skipped

    class Folder(RunFolder):
        def save_best(self, model):
            saved.append(weights_of(model))

    def with_folder(prepared):
        return dataclasses.replace(prepared, folder=Folder(prepared.folder.path))

    run = fit(digits_folder, output=tmp_path / "r", epochs=3, evaluate=evaluate, change=with_folder, **OPTIONS)
    assert [row["AP"] for row in run.metrics] == [0.1, 0.3, 0.2]
    assert len(saved) == 2
    assert not saved[1].equal(load_file(run.folder / "last" / "model.safetensors")["object_query"])


def weights_of(model) -> torch.Tensor:
    return model.object_query.detach().clone()


def test_validation_images_without_objects_end_well(digits_folder, tmp_path, capsys):
    shutil.copytree(digits_folder, tmp_path / "d")
    file = tmp_path / "d" / "valid" / "_annotations.coco.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    run = fit(tmp_path / "d", output=tmp_path / "r", epochs=1, **{**OPTIONS, "quiet": False})
    assert run.metrics[0]["AP"] is None
    assert "best: epoch 1, AP n/a" in capsys.readouterr().out
    assert load_model(run.folder).class_names


def test_steps_without_a_finite_gradient_are_counted_and_too_many_stop_the_run(digits_folder, tmp_path, capsys):
    bad = {2}

    def infinite(step, number, images):
        return images * torch.inf if number in bad else images

    options = OPTIONS | {"change": before_step(infinite)}
    run = fit(digits_folder, output=tmp_path / "a", epochs=1, **options | {"quiet": False})
    assert run.metrics[0]["skipped_steps"] == 1
    assert run.metrics[0]["loss"] > 0
    said = capsys.readouterr().out
    assert "(skipped steps without a finite gradient: 1)" in said
    (left,) = (run.folder / "flight").iterdir()
    assert f"weights unchanged. Find the cause: cdetr replay {left}" in said
    assert {p.name for p in left.iterdir()} == {
        "batch.safetensors", "config.json", "auxiliaries.safetensors", "model.safetensors", "images.jpg", "record.json",
    }  # fmt: skip
    bad = range(10_000)
    with pytest.raises(
        RunError, match=r"20 steps in a row had no finite gradient \(epoch 7, .*a new run in another folder with a lower --lr"
    ):
        fit(digits_folder, output=tmp_path / "b", epochs=9, **options)
    assert len(list((tmp_path / "b" / "flight").iterdir())) == 3


def test_a_step_without_a_finite_gradient_can_be_taken_again(digits_folder, tmp_path, capsys):
    """Weights that are astray, not the images: the same losses, and the module where they begin, by one command."""

    def astray(step, number, images):
        if number == 3:
            with torch.no_grad():
                step.parameters[0].fill_(torch.nan)
        return images

    options = OPTIONS | {"change": before_step(astray), "recipe_overrides": {"weight_average": 0.0}}
    with pytest.raises(CheckpointError, match="the model's scores are NaN or infinite"):
        fit(digits_folder, output=tmp_path / "a", epochs=1, **options)
    (left,) = (tmp_path / "a" / "flight").iterdir()
    recorded = json.loads((left / "record.json").read_text())
    assert (recorded["epoch"], recorded["step"], recorded["rank"]) == (1, 3, 0)
    done = replay(left, "cpu")
    assert {k for k, v in done.losses.items() if v != v} == {k for k, v in recorded["losses"].items() if v != v}
    assert done.parameters
    assert done.module is not None
    code, _, err = run_command(capsys, "replay", tmp_path)
    assert (code, "is not a recorded step" in err) == (2, True)
    code, out, _ = run_command(capsys, "replay", left)
    assert (code, "not finite in" in out) == (0, True)
    (left / "batch.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="is damaged"):
        replay(left, "cpu")


def test_images_that_are_not_there_are_said_before_the_first_step(digits_folder, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    (tmp_path / "d" / "valid" / "00002.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 images listed in .* cannot be used, more than 10% \(--max-bad\): 00002.png"):
        fit(tmp_path / "d", output=tmp_path / "r", epochs=1, max_bad=0.1, **OPTIONS)
    with pytest.raises(DataError, match=r"has problems \(stopped by --strict\): image-missing: 1 \(00002.png\)"):
        fit(tmp_path / "d", output=tmp_path / "r", epochs=1, strict=True, **OPTIONS)
    assert not (tmp_path / "r").exists()


def test_training_does_without_bad_images_and_names_each_once(digits_folder, tmp_path, capsys):
    shutil.copytree(digits_folder, tmp_path / "d")
    for name in ("train/00003.png", "valid/00001.png"):
        file = tmp_path / "d" / name
        file.write_bytes(file.read_bytes()[:200])
    options = {**OPTIONS, "quiet": False}
    run = fit(tmp_path / "d", output=tmp_path / "r", epochs=2, **options)
    told = capsys.readouterr().out
    assert [told.count(f"left out: {tmp_path}/d/{name}") for name in ("train/00003.png", "valid/00001.png")] == [1, 1]
    assert pytest.approx(max(row["AP"] for row in run.metrics), abs=1e-9) == evaluate(run.folder, tmp_path / "d").AP
    with pytest.raises(DataError, match=r"00003.png cannot be read as an image: .* \(stopped by --strict\)"):
        fit(tmp_path / "d", output=tmp_path / "s", epochs=1, strict=True, **options)
    with pytest.raises(DataError, match=r"1 images of train cannot be used, more than 5% of 12 \(--max-bad\)"):
        fit(tmp_path / "d", output=tmp_path / "t", epochs=1, max_bad=0.05, **options)


def test_a_folder_in_use_is_not_written_into(finished, digits_folder, tmp_path):
    with pytest.raises(RunError, match=r"is not empty. Add --resume to continue the run, or give another folder"):
        fit(digits_folder, output=finished.folder, epochs=1, **OPTIONS)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"is not empty. Give another folder"):
        fit(digits_folder, output=tmp_path, epochs=1, **OPTIONS)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_state_is_said(finished, digits_folder, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "r")
    (tmp_path / "r" / "last" / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"last is damaged"):
        fit(digits_folder, output=tmp_path / "r", epochs=4, resume=True, **OPTIONS)


def test_fine_tuning_keeps_the_classes_or_says_that_the_head_starts_anew(finished, digits_folder, tmp_path, capsys):
    options = {**OPTIONS, "quiet": False, "model_overrides": {}}
    same = fit(digits_folder, finished.folder, tmp_path / "same", epochs=1, **options)
    assert "fine-tuning" in (text := capsys.readouterr().out)
    assert "same classes" in text
    assert same.metrics[0]["loss"] < finished.metrics[0]["loss"]
    shutil.copytree(digits_folder, tmp_path / "d")
    for split in ("train", "valid"):
        file = tmp_path / "d" / split / "_annotations.coco.json"
        content = json.loads(file.read_text())
        content["categories"] = [{"id": 1, "name": "digit"}]
        for row in content["annotations"]:
            row["category_id"] = 1
        file.write_text(json.dumps(content))
    other = fit(tmp_path / "d", finished.folder, tmp_path / "other", epochs=1, **options)
    assert "other classes (10 before, 1 now), so the class head is newly initialised" in capsys.readouterr().out
    model = load_model(other.folder)
    assert (model.class_names, model.category_ids) == (["digit"], [1])
    assert load_model(other.folder).preprocessor.imgsz == 64
    unsaid = fit(digits_folder, finished.folder, tmp_path / "unsaid", epochs=1, **{**options, "imgsz": None})
    assert load_model(unsaid.folder).preprocessor.imgsz == 64  # what the checkpoint was trained at
    with pytest.raises(ConfigError, match="is a trained model: .*cannot change its architecture"):
        fit(digits_folder, finished.folder, tmp_path / "x", epochs=1, **OPTIONS)


def test_a_variant_trains_goes_on_and_its_weights_come_back_by_way_of_the_releases_format(digits_folder, tmp_path, capsys):
    parts = {**OPTIONS["model_overrides"], "cross_attention": "additive", "classification": "softmax", "box_offset": False}
    parts["pixel_aligned_positions"] = False  # which releases have no room for
    options = {**OPTIONS, "model_overrides": {**parts, "backbone": "resnet18.tv_in1k", "strides": [32]}}
    run = fit(digits_folder, output=tmp_path / "r", epochs=1, **options)
    shutil.rmtree(tmp_path / "r" / "best")
    run = fit(digits_folder, output=tmp_path / "r", epochs=2, resume=True, **options)
    assert len(run.metrics) == 2
    model = load_model(run.folder)
    save_model(model, tmp_path / "released", format="official")
    again = {**OPTIONS, "model_overrides": {}, "quiet": False}
    run = fit(digits_folder, tmp_path / "released" / "model.pth", tmp_path / "again", epochs=1, **again)
    assert "model.pth, same classes" in capsys.readouterr().out
    assert load_model(run.folder).config == model.config.model_copy(update={"spatial_init": "xavier"})
    with pytest.raises(ConfigError, match=r"model.num_classes cannot be set: .* has 10 classes"):
        fit(digits_folder, output=tmp_path / "x", **{**OPTIONS, "model_overrides": {"num_classes": 3}})


def test_a_run_goes_on_without_the_model_that_it_began_with(digits_folder, tmp_path, small_model):
    source = save_model(small_model, tmp_path / "source")
    options = {**OPTIONS, "model_overrides": {}, "recipe": "fast"}
    fit(digits_folder, source, tmp_path / "r", epochs=1, **options)
    shutil.rmtree(source)
    assert len(fit(digits_folder, source, tmp_path / "r", epochs=2, resume=True, **options).metrics) == 2


def test_patience_stops_early(digits_folder, tmp_path):
    def nothing_found(model, index, *_):
        return coco_metrics(index.ground_truth(), []), {}

    run = fit(digits_folder, output=tmp_path / "r", epochs=9, patience=2, evaluate=nothing_found, **OPTIONS)
    assert len(run.metrics) == 3


def test_images_without_objects_train_and_too_many_objects_are_said(digits_folder, tmp_path, capsys):
    shutil.copytree(digits_folder, tmp_path / "d")
    file = tmp_path / "d" / "train" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] > 6]
    file.write_text(json.dumps(content))
    options = {**OPTIONS, "quiet": False, "model_overrides": {**PARTS, "num_queries": 3}}
    run = fit(tmp_path / "d", output=tmp_path / "r", epochs=1, **options)
    assert run.metrics[0]["loss"] > 0
    assert "more than the model's 3 queries can find. Use --set model.num_queries=" in capsys.readouterr().out


def test_data_without_a_box_or_without_validation_is_refused(digits_folder, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    file = tmp_path / "d" / "train" / "_annotations.coco.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    with pytest.raises(DataError, match="has no usable box: there is nothing to train on"):
        fit(tmp_path / "d", output=tmp_path / "r", epochs=1, **OPTIONS)
    shutil.rmtree(tmp_path / "d" / "valid")
    with pytest.raises(DataError, match="has no split 'valid'"):
        fit(tmp_path / "d", output=tmp_path / "r", epochs=1, **OPTIONS)
    assert not (tmp_path / "r").exists()


def test_other_classes_on_resume_are_refused(digits_folder, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    fit(tmp_path / "d", output=tmp_path / "r", epochs=1, **OPTIONS)
    for file in (tmp_path / "d").rglob("*.json"):
        content = json.loads(file.read_text())
        gone = content["categories"].pop(1)["id"]
        content["annotations"] = [row for row in content["annotations"] if row["category_id"] != gone]
        file.write_text(json.dumps(content))
    with pytest.raises(RunError, match="differ from those at the start of the run: .*Start a new run in another folder"):
        fit(tmp_path / "d", output=tmp_path / "r", epochs=2, resume=True, **OPTIONS)


def test_images_that_are_missing_and_such_that_cannot_be_read_count_together(digits_folder, tmp_path):
    shutil.copytree(digits_folder, tmp_path / "d")
    for number in (1, 2):
        (tmp_path / "d" / "train" / f"0000{number}.png").unlink()
        (tmp_path / "d" / "train" / f"0000{number + 2}.png").write_text("no image")
    with pytest.raises(DataError, match=r"4 images of train cannot be used, more than 30% of 12 \(--max-bad\)"):
        fit(tmp_path / "d", output=tmp_path / "r", epochs=1, max_bad=0.3, **OPTIONS)
    assert fit(tmp_path / "d", output=tmp_path / "s", epochs=1, max_bad=4 / 12, **OPTIONS).metrics


def test_in_how_many_parts_a_batch_is_worked_through_is_kept(digits_folder, tmp_path):
    def scarce(step, number, images):
        if step.gradients.grad_accum_steps < 2:
            step.gradients._split_further(len(images))
        return images

    fit(digits_folder, output=tmp_path / "r", epochs=1, change=before_step(scarce), **OPTIONS)
    seen = []
    fit(
        digits_folder, output=tmp_path / "r", epochs=2, resume=True, **OPTIONS,
        change=before_step(lambda step, number, images: (seen.append(step.gradients.grad_accum_steps), images)[1]),
    )  # fmt: skip
    assert seen == [2, 2, 2]


def test_a_kill_between_the_renames_of_the_state_is_recovered_by_the_command(finished, tmp_path, capsys):
    from commands import run

    shutil.copytree(finished.folder, tmp_path / "r")
    (tmp_path / "r" / "last").rename(tmp_path / "r" / ".last.old")
    code, out, err = run(capsys, "train", "--resume", "--output", tmp_path / "r")
    assert (code, err) == (0, "")
    assert "is finished: 3 epochs" in out


def test_what_is_judged_and_kept_is_the_average_and_what_goes_on_is_not(digits_folder, tmp_path):
    aps = iter((0.1, 0.2))  # the last epoch is the best one

    def evaluate(model, index, batch, processes):
        metrics, skipped = evaluate_together(model, index, batch, processes)
        return dataclasses.replace(metrics, AP=next(aps)), skipped

    run = fit(digits_folder, output=tmp_path / "a", epochs=2, evaluate=evaluate, **OPTIONS)
    best, last = (load_file(run.folder / name / "model.safetensors") for name in ("best", "last"))
    state = load_file(run.folder / "last" / "optimizer.safetensors")
    average = {key.removeprefix("average.module."): value for key, value in state.items() if key.startswith("average.module.")}
    assert set(average) == set(last)
    assert any((average[key] - last[key]).abs().max() > 1e-6 for key in last)
    assert all(best[key].equal(average[key]) for key in best)


def test_a_run_by_the_clock_comes_to_its_end_and_is_judged_there(digits_folder, tmp_path, capsys):
    facts: list[dict[str, str]] = []

    def finalize(folder, config, of_run, *rest):
        facts.append(of_run)

    run = fit(digits_folder, output=tmp_path / "a", minutes=0.2, finalize=finalize, **OPTIONS | {"quiet": False})
    assert "cosine schedule over 0.2 minutes" in facts[0]["recipe"]
    assert len(run.metrics) > 1
    assert run.metrics[-1]["AP"] is not None
    lrs = [row["lr"] for row in run.metrics]
    assert lrs[-1] < 0.1 * max(lrs)  # the schedule came to its end
    out = capsys.readouterr().out
    assert "epoch 1  loss" in out
    again = fit(digits_folder, output=tmp_path / "a", minutes=0.2, resume=True, **OPTIONS)
    assert again.metrics == run.metrics


def test_settings_that_the_data_decide_are_said_and_written_down(digits_folder, tmp_path, capsys):
    parts = {key: value for key, value in PARTS.items() if key != "num_queries"}
    fit(digits_folder, output=tmp_path / "a", epochs=1, **OPTIONS | {"quiet": False, "model_overrides": parts})
    out = capsys.readouterr().out
    assert "model.num_queries = 20: a training image has up to" in out
    config = (tmp_path / "a" / "config.toml").read_text()
    assert "num_queries = 20" in config
    assert "hflip = 0.0" in config
    assert 'reference_points = "encoder_boxes"' in config


def test_a_recipes_loss_that_the_model_rules_out_falls_away_and_a_chosen_one_is_an_error(digits_folder, tmp_path, capsys):
    options = {**OPTIONS, "quiet": False, "model": "detr-tiny", "output": tmp_path / "r"}
    fit(digits_folder, epochs=1, **options)
    line = "class_loss = model: ia_bce needs focal classification, the model's is softmax"
    assert capsys.readouterr().out.count(line) == 1
    assert 'class_loss = "model"' in (tmp_path / "r" / "config.toml").read_text()
    assert len(fit(digits_folder, epochs=2, resume=True, **options).metrics) == 2
    options |= {"output": tmp_path / "s", "recipe_overrides": {"class_loss": "ia_bce"}}
    with pytest.raises(ConfigError, match="class_loss = 'ia_bce' and model.classification = 'softmax' cannot be combined"):
        fit(digits_folder, epochs=1, **options)
    assert not (tmp_path / "s").exists()


def test_an_unknown_option_is_answered_with_the_nearest(digits_folder):
    with pytest.raises(ConfigError, match="train: there is no setting 'epoch'. Did you mean epochs?"):
        train(digits_folder, epoch=3)
