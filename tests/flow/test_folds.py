"""Cross-validation: each image is validated once, by a model that was not trained on it; the results are joined."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from commands import run
from conditional_detr.data.index import load_split
from conditional_detr.doctor import cross_validation
from conditional_detr.doctor.clean_copy import write_copy
from conditional_detr.doctor.cross_validation import cross_validate
from conditional_detr.errors import ConfigError, RunError
from conditional_detr.evaluation.coco import coco_metrics

OPTIONS = {
    "model": "conditional-detr-tiny", "imgsz": 64, "batch": 4, "workers": 0, "device": "cpu", "quiet": True, "epochs": 1,
    "model_overrides": {"num_queries": 6, "encoder_layers": 0, "decoder_layers": 1}, "pretrained_backbone": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def done(digits_folder, tmp_path_factory):
    """A cross-validation of the digits, one of whose images is there twice."""
    data = tmp_path_factory.mktemp("folds") / "data"
    shutil.copytree(digits_folder, data)
    file = data / "valid" / "_annotations.coco.json"
    content = json.loads(file.read_text())
    image = content["images"][0]
    with Image.open(data / "valid" / image["file_name"]) as opened:
        opened.save(data / "valid" / "again.jpg", quality=95)
    content["images"].append(image | {"id": 999, "file_name": "again.jpg"})
    file.write_text(json.dumps(content))
    lines: list[str] = []
    return data, cross_validate(data, folds=3, output=data.parent / "cv", say=lines.append, **OPTIONS), lines


def test_each_image_is_in_one_fold_and_copies_stay_together(done):
    _, result, lines = done
    folds = [load_split(result.folder / "data" / f"fold-{k}", "valid") for k in (1, 2, 3)]
    trained = [load_split(result.folder / "data" / f"fold-{k}", "train") for k in (1, 2, 3)]
    ids = [set(index.written_ids) for index in folds]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 12 + 6 + 1
    for own, others in zip(ids, trained, strict=True):
        assert own.isdisjoint(others.written_ids)
        assert own | set(others.written_ids) == set.union(*ids)
    pixels = {}
    for k, index in enumerate(folds):
        for path in index.paths:
            with Image.open(path) as image:
                pixels[path] = k, np.asarray(image.convert("RGB"), dtype=float)
    (again,) = [path for path in pixels if path.endswith("again.jpg")]
    twin = min((path for path in pixels if path != again), key=lambda path: np.abs(pixels[path][1] - pixels[again][1]).mean())
    assert pixels[twin][0] == pixels[again][0]
    assert lines == ["fold 1 of 3", "fold 2 of 3", "fold 3 of 3"]
    settings = [(result.folder / f"fold-{k}" / "config.toml").read_text().split("[training]")[1] for k in (1, 2, 3)]
    assert settings[0] == settings[1] == settings[2]


def test_results_are_means_and_those_of_all_detections(done):
    _, result, _ = done
    written = json.loads((result.folder / "metrics.json").read_text())
    own = [json.loads((result.folder / f"fold-{k}" / "metrics.json").read_text())["AP"] for k in (1, 2, 3)]
    assert written["folds"]["AP"]["values"] == own
    assert written["folds"]["AP"]["mean"] == pytest.approx(np.mean(own))
    low, high = written["folds"]["AP"]["interval"]
    half = 4.302653 * np.std(own, ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert (low, high) == pytest.approx((max(0, np.mean(own) - half), min(1, np.mean(own) + half)))
    rows = json.loads((result.folder / "predictions.json").read_text())
    truth = json.loads((result.folder / "data" / "all" / "all" / "_annotations.coco.json").read_text())
    assert written["out_of_fold"]["AP"] == coco_metrics(truth, rows).AP
    assert isinstance(json.loads((result.folder / "label_errors.json").read_text()), list)
    assert "<script" not in (result.folder / "label_errors.html").read_text()


def test_it_is_resumed_with_the_same_folds(done):
    data, result, _ = done
    before = json.loads((result.folder / "metrics.json").read_text())
    again = cross_validate(data, folds=3, output=result.folder, resume=True, say=lambda line: None, **OPTIONS)
    assert again.to_dict() == before
    with pytest.raises(RunError, match="was started with 3 folds, not 2"):
        cross_validate(data, folds=2, output=result.folder, resume=True, say=lambda line: None, **OPTIONS)
    with pytest.raises(ConfigError, match="must be a new or empty folder"):
        cross_validate(data, folds=3, output=result.folder, say=lambda line: None, **OPTIONS)


def test_a_stop_while_the_data_are_written_leaves_nothing(digits_folder, tmp_path, monkeypatch):
    """Half of the folds would be taken for all of them."""
    calls = []

    def stopped(*given: object) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_copy(*given)

    monkeypatch.setattr(cross_validation, "write_copy", stopped)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(digits_folder, folds=2, output=tmp_path / "cv", resume=True, say=lambda line: None, **OPTIONS)
    assert not (tmp_path / "cv" / "data").exists()


def test_the_command_names_what_it_wrote(digits_folder, tmp_path, capsys):
    code, _, err = run(capsys, "train", "--data", digits_folder, "--folds", 1, "--output", tmp_path / "r")
    assert (code, "--folds must be 2 or more, not 1" in err) == (2, True)
    parts = ("--set", "model.num_queries=5", "--set", "model.encoder_layers=0", "--set", "model.decoder_layers=1")
    code, out, err = run(
        capsys, "train", "--data", digits_folder, "--folds", 2, "--epochs", 1, "--imgsz", 64, "--output", tmp_path / "r",
        "--workers", 0, "--no-pretrained-backbone", *parts,
    )  # fmt: skip
    assert code == 0, err
    assert "AP: mean of 2 folds 0." in out
    assert "likely label errors, the most suspicious first: " in " ".join(out.split())
