import copy
import json
import re

import numpy as np
import pytest
import supervision as sv
import torch
from PIL import Image

from conditional_detr.data.index import load_split
from conditional_detr.errors import CheckpointError, ConfigError, ImageError
from conditional_detr.evaluation.coco import evaluate, evaluation_of
from conditional_detr.factory.create import create_model
from conditional_detr.inference.batching import detect
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.predict import find_images, predict
from conditional_detr.weights.save import save_model


@pytest.fixture
def detector(small_model) -> Detector:
    small_model.preprocessor = small_model.preprocessor.model_copy(update={"imgsz": 96})
    return Detector(small_model, device="cpu")


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 255, (*size, 3), dtype=np.uint8) for size in ((60, 80), (80, 60), (60, 80), (50, 90), (1, 1), (60, 80))
    ]


def test_a_list_always_in_the_inputs_order(detector):
    single = detector(arrays()[0], conf=0)
    assert isinstance(single, list)
    assert isinstance(single[0], sv.Detections)
    many = detector(arrays(), conf=0, batch=2)
    assert len(many) == 6
    for image, detections in zip(arrays(), many, strict=True):
        alone = detector(image, conf=0)[0]
        np.testing.assert_allclose(detections.xyxy, alone.xyxy, atol=1e-2)
        np.testing.assert_allclose(detections.confidence, alone.confidence, atol=1e-5)
        assert (np.diff(detections.confidence) <= 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_number_format_is_converted(small_model, dtype):
    rounded = copy.deepcopy(small_model).to(dtype)
    expected = Detector(copy.deepcopy(rounded).float())(arrays()[0], conf=0)[0]
    found = Detector(rounded)(arrays()[0], conf=0)[0]
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=1e-6)
    np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1e-3)


def test_results_do_not_depend_on_batch_mates(detector):
    one, eight = detector(arrays(), conf=0, batch=1), detector(arrays(), conf=0, batch=8)
    for a, b in zip(one, eight, strict=True):
        np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-5)
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-2)


def test_paths_pil_and_arrays_give_the_same(detector, tmp_path):
    Image.fromarray(arrays()[0]).save(tmp_path / "a.png")
    doors = detector([tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(arrays()[0]), arrays()[0]], conf=0)
    for other in doors[1:]:
        np.testing.assert_allclose(doors[0].xyxy, other.xyxy, atol=1e-3)


def test_names_ids_and_confidence(detector):
    detector.model.class_names, detector.model.category_ids = ["x", "y", "z"], [7, 9, 11]
    detections = detector(arrays()[0], conf=0)[0]
    assert [detector.model.class_names[i] for i in detections.class_id] == list(detections.data["class_name"])
    assert [detector.model.category_ids[i] for i in detections.class_id] == list(detections.data["category_id"])
    conf = float(detections.confidence[3:5].mean())
    assert detections.confidence[3] > detections.confidence[4]
    assert len(detector(arrays()[0], conf=conf)[0]) == 4
    assert len(detector(arrays()[0], conf=1)[0]) == 0


def test_without_a_conf_each_class_has_the_threshold_that_it_learned(detector, tmp_path):
    everything = detector(arrays()[0], conf=0)[0]
    usual = detector(arrays()[0])[0]
    assert len(usual) == (everything.confidence >= 0.3).sum()
    middle = float(np.median(everything.confidence))
    detector.model.thresholds = [middle, 0.0, 1.0]
    found = detector(arrays()[0])[0]
    limits = np.array(detector.model.thresholds)[everything.class_id]
    assert 0 < len(found) < len(everything)
    assert len(found) == (everything.confidence >= limits).sum()
    assert len(detector(arrays()[0], conf=0)[0]) == len(everything)  # who says a conf means it
    again = Detector(save_model(detector.model, tmp_path / "m"), device="cpu")
    assert again.model.thresholds == detector.model.thresholds
    np.testing.assert_allclose(again(arrays()[0])[0].xyxy, found.xyxy, atol=1e-3)


@pytest.mark.parametrize("thresholds", [[0.5], [0.5, 2.0, 0.5], ["a", "b", "c"], [0.5, None, 0.5], 7])
def test_invalid_thresholds_are_refused(detector, tmp_path, thresholds):
    folder = save_model(detector.model, tmp_path / "m")
    content = json.loads((folder / "config.json").read_text()) | {"thresholds": thresholds}
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="describes a model that cannot be built"):
        Detector(folder)


def test_invalid_arguments_are_refused(detector, small_model):
    with pytest.raises(ConfigError, match=r"conf must be in \[0, 1\], not 2"):
        detector(arrays()[0], conf=2)
    with pytest.raises(ConfigError, match="batch must be at least 1, not 0"):
        detector(arrays()[0], batch=0)
    with pytest.raises(ConfigError, match="runtime must be auto, torch, onnx or openvino, not 'tpu'"):
        Detector(small_model, runtime="tpu")
    with pytest.raises(ConfigError, match="the device 'cuda:77' is not available"):
        Detector(small_model, device="cuda:77")
    with pytest.raises(ImageError, match=r"nowhere.jpg cannot be opened"):
        detector("nowhere.jpg")


def test_predict_writes_images_and_rows_and_names_what_it_could_not_read(detector, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for i, array in enumerate(arrays()[:3]):
        Image.fromarray(array).save(folder / f"{i}.png")
    Image.fromarray(arrays()[0]).save(folder / "deep" / "0.jpg")
    (folder / "bad.jpg").write_text("no image")
    (folder / "notes.txt").write_text("not an image by its name")
    detector.model.category_ids = [7, 9, 11]
    images = find_images([str(folder)])
    assert len(images) == 5
    done = predict(detector, images, tmp_path / "out", conf=0, batch=2)
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert rows == done.rows
    assert done.read == 4
    assert len(done.unreadable) == 1
    assert "bad.jpg cannot be read" in done.unreadable[0]
    assert set(rows[0]) == {"image_id", "file_name", "category_id", "category_name", "bbox", "score"}
    assert {images[row["image_id"]] for row in rows} == {row["file_name"] for row in rows}
    assert {row["category_id"] for row in rows} <= {7, 9, 11}
    assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)
    assert max(sum(row["image_id"] == i for row in rows) for i in range(5)) <= 100
    assert sorted(p.name for p in (tmp_path / "out").glob("*.jpg")) == ["0-2.jpg", "0.jpg", "1.jpg", "2.jpg"]
    assert done.renamed == {"0-2.jpg": str(folder / "deep" / "0.jpg")}
    assert json.loads((tmp_path / "out" / "renamed.json").read_text()) == done.renamed
    assert done.others == 0
    again = predict(detector, images[:1], tmp_path / "out", conf=0)
    assert (again.renamed, again.others) == ({}, 3)
    assert not (tmp_path / "out" / "renamed.json").exists()


def test_predict_never_writes_over_what_it_reads(detector, tmp_path):
    for name in ("a.jpg", "a.png"):
        Image.fromarray(arrays()[0]).save(tmp_path / name)
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.png")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    predict(detector, find_images([str(tmp_path)]), tmp_path, conf=0)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert sorted(p.name for p in tmp_path.glob("*-?.jpg")) == ["a-2.jpg", "a-3.jpg", "link-2.jpg"]
    predict(detector, [str(tmp_path / "a.jpg")], tmp_path / "out", conf=0)
    assert (tmp_path / "out" / "a.jpg").is_file()


def test_an_image_from_the_web_is_fetched_once(detector, tmp_path, monkeypatch):
    Image.fromarray(arrays()[0]).save(tmp_path / "a.png")
    calls = []
    monkeypatch.setattr(
        "conditional_detr.images.decoding._fetch", lambda url: (calls.append(url), (tmp_path / "a.png").read_bytes())[1]
    )
    done = predict(detector, ["https://example.org/a.png?size=big"], tmp_path / "out", conf=0)
    assert calls == ["https://example.org/a.png?size=big"]
    assert done.read == 1
    assert (tmp_path / "out" / "a.jpg").is_file()


def test_damaged_weights_are_reported_instead_of_nan_scores(detector, digits_folder):
    with torch.no_grad():
        detector.model.class_head.bias.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="scores are NaN or infinite: its weights are damaged"):
        detector(arrays()[0])


def test_evaluation_leaves_out_images_of_another_size_than_their_file_says(detector, wrongly_sized):
    evaluation = evaluation_of(Detector(small_for_digits(detector.model), device="cpu"), wrongly_sized)
    ((place, reason),) = evaluation.skipped.items()
    assert re.search(r"00001.png is 64 x 64 px after EXIF rotation, but .* says 99 x 64", reason)
    assert len(evaluation.index) == 5
    assert not any(path.endswith("00001.png") for path in evaluation.index.paths)
    assert load_split(wrongly_sized, "valid").paths[place].endswith("00001.png")
    with pytest.raises(ConfigError, match="batch must be at least 1, not 0"):
        evaluate(detector.model, wrongly_sized, "valid", batch=0, device="cpu")


def small_for_digits(model):
    model.class_names = ["0", "1", "2"]
    return model


def test_an_image_behind_a_link_is_not_written_over(detector, tmp_path):
    (tmp_path / "out").mkdir()
    Image.fromarray(arrays()[0]).save(tmp_path / "out" / "a.jpg")
    before = (tmp_path / "out" / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").symlink_to(tmp_path / "out" / "a.jpg")
    predict(detector, [str(tmp_path / "a.jpg")], tmp_path / "out", conf=0.99)
    assert (tmp_path / "out" / "a.jpg").read_bytes() == before
    assert (tmp_path / "out" / "a-2.jpg").is_file()


def test_inputs_are_files_folders_and_patterns(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(arrays()[0]).save(tmp_path / name)
    assert find_images([str(tmp_path / "*.png")]) == find_images([str(tmp_path)])
    assert find_images([str(tmp_path / "b.png"), str(tmp_path / "a.png")])[0].endswith("b.png")
    with pytest.raises(ConfigError, match="there is no such file or folder, and no file matches it as a pattern"):
        find_images([str(tmp_path / "c*.png")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="contains no images"):
        find_images([str(tmp_path / "empty")])


def test_evaluation_and_prediction_are_one_path(digits_folder, tmp_path):
    """AR100 of `evaluate` equals that of the rows of `predict`, computed by pycocotools."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    torch.manual_seed(0)
    names = [str(i) for i in range(10)]
    model = create_model("conditional-detr-tiny", 10, pretrained_backbone=False, class_names=names, category_ids=range(1, 11))
    with torch.no_grad():
        model.box_head.mlp.last.bias[2:] = -1.0  # boxes of a digit's size, so that some are right by chance
    metrics = evaluate(model, digits_folder, "valid", batch=4)
    images = find_images([str(digits_folder / "valid")])
    rows = predict(Detector(model), images, tmp_path / "out", conf=0, batch=1).rows
    file = digits_folder / "valid" / "_annotations.coco.json"
    by_name = {image["file_name"]: image["id"] for image in json.loads(file.read_text())["images"]}
    results = [{**row, "image_id": by_name[row["file_name"].rsplit("/", 1)[-1]]} for row in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[8] > 0
    assert pytest.approx(evaluation.stats[8], abs=1e-6) == metrics.AR100
    assert pytest.approx(evaluation.stats[0], abs=1e-6) == metrics.AP


def test_a_detector_moves_no_weights(detector):
    before = {k: v.clone() for k, v in detector.model.state_dict().items()}
    detector(arrays(), conf=0)
    assert all(v.equal(before[k]) for k, v in detector.model.state_dict().items())
    assert not torch.is_inference_mode_enabled()


def test_boxes_end_at_the_edges_of_their_image(detector):
    """Boxes are clipped in the results, but not in evaluation."""
    for image, found in zip(arrays(), detector(arrays(), conf=0), strict=True):
        height, width = image.shape[:2]
        assert found.xyxy.min() >= 0
        assert (found.xyxy <= [width, height, width, height]).all()
    raw = [result["boxes"] for _, _, result in detect(detector.model, arrays())]
    assert any(float(boxes.min()) < 0 for boxes in raw)
