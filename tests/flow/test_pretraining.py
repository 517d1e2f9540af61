"""`cdetr pretrain` from a folder of images to a detector that starts from it."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from commands import run
from conditional_detr.errors import ConfigError
from conditional_detr.inference.detector import Detector
from conditional_detr.pretraining.finding import found_patches
from conditional_detr.pretraining.images import image_folder
from conditional_detr.pretraining.objective import PretrainingObjective
from conditional_detr.pretraining.pretrain import pretrain
from conditional_detr.pretraining.report import sample_of_finding
from conditional_detr.training.prepare import prepared_run
from conditional_detr.training.setup.resolve import requested
from conditional_detr.weights.discovery import load_model

SMALL = {"num_queries": 20, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 32, "feedforward_dim": 48}
OPTIONS = {"imgsz": 64, "batch": 4, "workers": 0, "threads": 1, "pretrained_backbone": False, "quiet": True, "device": "cpu"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(14):
        coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{number:02}.jpg")
    return folder


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    output = tmp_path_factory.mktemp("pre") / "run"
    return pretrain(photos, "up-detr-tiny", output, epochs=2, model_overrides=SMALL, **OPTIONS)


def test_the_run_folder_has_a_report_and_a_model_for_pretraining(finished):
    files = {path.name for path in finished.folder.iterdir()}
    assert {"best", "last", "config.toml", "metrics.jsonl", "report.html", "train_batch.jpg"} <= files
    page = (finished.folder / "report.html").read_text()
    assert "Patches and where they were found" in page
    assert page.count("data:image/jpeg") == 2  # one image was held out: it, and its patches
    row = finished.metrics[-1]
    assert {"loss_feature", "loss_ce", "loss_bbox", "loss_giou", "AP"} <= row.keys()
    assert load_model(finished.folder).config.patches == 10


def test_the_backbone_does_not_change(finished, photos, tmp_path):
    other = pretrain(photos, "up-detr-tiny", tmp_path / "r", epochs=1, model_overrides=SMALL, **OPTIONS)
    states = [load_file(each.folder / "last" / "model.safetensors") for each in (finished, other)]
    for key, value in states[0].items():
        if key.startswith("backbone."):
            assert torch.equal(value, states[1][key]), key
    assert any(not torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_stopped_run_that_goes_on_equals_one_that_was_left_alone(photos, tmp_path, monkeypatch):
    def stop(self, images, padding_mask, targets):
        stops.append(len(stops))
        if len(stops) == 5:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return of_objective(self, images, padding_mask, targets)

    stops, of_objective = [], PretrainingObjective.predictions
    options = {**OPTIONS, "model_overrides": SMALL, "epochs": 2}
    alone = pretrain(photos, "conditional-detr-tiny", tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingObjective, "predictions", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(photos, "conditional-detr-tiny", tmp_path / "b", **options)
    torch.manual_seed(123)
    again = pretrain(photos, "conditional-detr-tiny", tmp_path / "b", resume=True, **options)
    states = [load_file(run.folder / "last" / "model.safetensors") for run in (alone, again)]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, atol=1e-6, rtol=0, msg=key)
    assert [row["loss"] for row in again.metrics] == pytest.approx([row["loss"] for row in alone.metrics], rel=1e-5)
    assert (tmp_path / "b" / "report.html").is_file()


def test_the_same_seed_gives_the_same_weights_on_two_threads(photos, tmp_path):
    """The parts of a batch are processed in parallel, so nothing random may be drawn there."""
    options = {**OPTIONS, "threads": 2, "model_overrides": SMALL, "epochs": 1}
    folders = [pretrain(photos, "up-detr-tiny", tmp_path / name, **options).folder for name in "ab"]
    one, two = (load_file(folder / "last" / "model.safetensors") for folder in folders)
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_train_starts_from_it(finished, digits_folder, tmp_path, capsys):
    options = ("--epochs", 1, "--imgsz", 64, "--threads", 1, "--output", tmp_path / "t")
    code, out, err = run(capsys, "train", "--model", finished.folder, "--data", digits_folder, *options)
    assert code == 0, err
    assert "was pre-trained without labels: the class head is newly initialised" in out
    detector, pretrained = load_model(tmp_path / "t"), load_model(finished.folder)
    assert (detector.config.patches, detector.config.norm) == (0, "pre")
    assert detector.config.num_queries == pretrained.config.num_queries


def test_a_new_model_with_other_queries_takes_its_weights(finished, digits_folder, tmp_path, capsys):
    settings = [f"model.{key}={value}" for key, value in (SMALL | {"num_queries": 7}).items()]
    options = [word for setting in (*settings, f"init_from={finished.folder}") for word in ("--set", setting)]
    options += ["--epochs", 1, "--imgsz", 64, "--threads", 1, "--output", tmp_path / "t"]
    code, out, err = run(capsys, "train", "--model", "up-detr-tiny", "--data", digits_folder, *options)
    assert code == 0, err
    assert "pre-trained without labels, so the class head is newly initialised" in out
    assert load_model(tmp_path / "t").config.num_queries == 7


def test_images_that_cannot_be_used_are_reported_and_replaced(photos, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for number in range(12):
        (tmp_path / "photos" / f"{number:02}.jpg").write_bytes((photos / f"{number:02}.jpg").read_bytes())
    whole = (tmp_path / "photos" / "05.jpg").read_bytes()
    (tmp_path / "photos" / "05.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos" / "06.jpg").write_bytes(b"no image")
    (tmp_path / "photos" / "00.jpg").write_bytes(whole[: len(whole) // 2])  # would be held out
    Image.new("RGB", (300, 16)).save(tmp_path / "photos" / "07.jpg")
    options = {**OPTIONS, "quiet": False, "epochs": 1, "max_bad": 0.5, "model_overrides": SMALL}
    done = pretrain(tmp_path / "photos", "conditional-detr-tiny", tmp_path / "r", **options)
    said = capsys.readouterr().out
    assert len(done.metrics) == 1
    assert "9 images for pre-training, 1 image to measure it" in said
    assert "image-unreadable: 1 (06.jpg): the image is left out" in said
    assert "1 image with a side of at most 16 px (07.jpg): left out" in said
    assert "left out: " in said  # the half image is only found when it is decoded
    assert "05.jpg" in said
    assert "00.jpg" in said


def test_what_a_pretraining_cannot_do_is_said(finished, photos, digits_folder, tmp_path, capsys):
    refused = "was pre-trained without labels and detects nothing yet. Train a detector from it: cdetr train --model"
    image = photos / "00.jpg"
    for line in (("predict", finished.folder, image), ("eval", finished.folder, "--data", digits_folder),
                 ("export", finished.folder, tmp_path / "e"), ("explain", finished.folder, image)):  # fmt: skip
        code, _, err = run(capsys, *line)
        assert (code, refused in err) == (2, True), (line, err)
    elsewhere = "is for pre-training without labels. Use `cdetr pretrain`, also to resume such a run"
    for line in (("--set", "model.patches=10", "--output", tmp_path / "t"), ("--resume", "--output", finished.folder)):
        code, _, err = run(capsys, "train", "--data", digits_folder, *line)
        assert (code, elsewhere in err) == (2, True), (line, err)
    code, out, _ = run(capsys, "info", finished.folder)
    assert code == 0
    assert "none yet: `cdetr train --model` makes a detector of it" in out
    with pytest.raises(ConfigError, match="dense_aux_weight cannot be changed in pre-training"):
        pretrain(photos, output=tmp_path / "r", recipe_overrides={"dense_aux_weight": 1.0})


def test_wrong_settings_are_refused(finished, photos, digits_folder, tmp_path, capsys):
    lines = {
        ("--strict",): "has problems (stopped by --strict): image-unreadable: 2",
        ("--max-bad", 0.1): "2 of 14 images in",
        ("--set", "freeze=2"): "freeze cannot be changed in pre-training",
        ("--set", "init_from=x"): "init_from cannot be changed in pre-training",
        ("--set", "recipe=paper"): "pre-training has no recipes",
        ("--batch", 0): "pretrain: batch must be",
    }
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    for name in ("00.jpg", "01.jpg"):
        (folder / name).write_bytes(b"no image")
    for options, text in lines.items():
        code, _, err = run(capsys, "pretrain", "--data", folder, "--output", tmp_path / "r", *options)
        assert (code, text in err) == (2, True), (options, err)
    (tmp_path / "train" / "last").mkdir(parents=True)
    (tmp_path / "train" / "last" / "state.json").write_text("{}")
    (tmp_path / "train" / "config.toml").write_text('model = "detr-tiny"\nrecipe = "fast"\n')
    code, _, err = run(capsys, "pretrain", "--resume", "--data", photos, "--output", tmp_path / "train")
    assert (code, "is a run of `cdetr train`" in err) == (2, True), err
    code, _, err = run(
        capsys, "train", "--model", finished.folder, "--set", f"init_from={finished.folder}", "--data", digits_folder,
        "--output", tmp_path / "t",
    )  # fmt: skip
    assert (code, "is a trained model, so init_from" in err) == (2, True), err
    for patches in ("5", True, 2.5, 0):
        with pytest.raises(ConfigError, match="patches must be a whole number from 1 to 1000"):
            pretrain(photos, output=tmp_path / "r", patches=patches)
    with pytest.raises(ConfigError, match=r"patches = 5 and model.patches = 4 differ"):
        pretrain(photos, output=tmp_path / "r", patches=5, model_overrides={"patches": 4})
    with pytest.raises(ConfigError, match="the model was pre-trained without labels"):
        Detector(load_model(finished.folder))


def test_thin_images_and_pictures_of_runs_do_no_harm(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    for number in range(4):
        Image.new("RGB", (2000, 20 + number)).save(tmp_path / "photos" / f"thin{number}.png")
    options = {**OPTIONS, "batch": 17, "model_overrides": SMALL}
    done = pretrain(tmp_path / "photos", "up-detr-tiny", tmp_path / "photos" / "run", epochs=1, **options)
    assert (done.folder / "train_batch.jpg").is_file()
    assert len(image_folder(tmp_path / "photos")) == 18  # not the picture of the run


def test_extra_groups_of_a_trained_model_start_near_its_queries(finished, digits_folder, tmp_path):
    options = requested({"data": digits_folder, "model": str(finished.folder), "output": tmp_path / "t", "device": "cpu"})
    with prepared_run(options) as prepared:
        own = prepared.learning.model.object_query
        extra = prepared.learning.auxiliaries["extra_queries"].queries
    assert (extra - own).std() < 0.6 * own.std()


def test_its_config_repeats_it(finished, tmp_path, capsys):
    code, _, err = run(capsys, "pretrain", "--config", finished.folder / "config.toml", "--output", tmp_path / "again")
    assert code == 0, err
    one, two = (load_file(folder / "last" / "model.safetensors") for folder in (finished.folder, tmp_path / "again"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_a_step_without_a_finite_gradient_can_be_replayed(photos, tmp_path, monkeypatch, capsys):
    def broken(self, images, padding_mask, targets):
        return of_objective(self, images * torch.inf, padding_mask, targets)

    of_objective = PretrainingObjective.predictions
    with monkeypatch.context() as patch:
        patch.setattr(PretrainingObjective, "predictions", broken)
        pretrain(photos, "up-detr-tiny", tmp_path / "r", epochs=1, model_overrides=SMALL, **OPTIONS)
    record = next((tmp_path / "r" / "flight").iterdir())
    code, out, err = run(capsys, "replay", record)
    assert code == 0, err
    assert "loss_feature" in out


def test_trackers_get_an_image_of_found_patches(finished, photos):
    index = image_folder(photos)
    picture = sample_of_finding(load_model(finished.folder), index)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


def test_the_patches_of_an_image_do_not_depend_on_the_others(finished, photos):
    index, model = image_folder(photos), load_model(finished.folder)
    every, few = ([*found_patches(model, i, range(len(i)), 64, {})] for i in (index, index.without({0, 3})))
    assert torch.equal(few[0].boxes, every[1].boxes)
    assert torch.equal(few[-1].patches, every[-1].patches)


def test_the_command_line(photos, tmp_path, capsys):
    code, _, err = run(capsys, "pretrain", "--epochs", 1, "--output", tmp_path / "a")
    assert (code, "pretrain needs --data: a folder of images" in err) == (2, True)
    code, _, err = run(capsys, "pretrain", "--data", photos, "--model", "up-detr-tini", "--output", tmp_path / "a")
    assert (code, "up-detr-tiny" in err) == (2, True)
    code, _, err = run(capsys, "pretrain", "--data", tmp_path / "none", "--output", tmp_path / "a")
    assert (code, "is not a folder of images: it does not exist" in err) == (2, True)
    code, _, err = run(capsys, "pretrain", "--data", photos, "--epochs", 1, "--minutes", 1)
    assert (code, "give --epochs or --minutes, not both" in err) == (2, True)


def test_the_settings_are_the_papers_for_its_models(tmp_path, photos):
    from conditional_detr.pretraining.pretrain import ALL, PAPER
    from conditional_detr.training.setup.resolve import requested, resolve

    options = {"data": photos, "model": "up-detr-r50", "recipe_overrides": ALL | PAPER}
    recipe = resolve(requested(options)).training
    assert (recipe.lr, recipe.lr_backbone, recipe.batch, recipe.epochs) == (1e-4, 0, 256, 60)
    assert recipe.lr_drop_at == pytest.approx(40 / 60)
    assert json.dumps(ALL)  # plain values, as config.toml holds them
