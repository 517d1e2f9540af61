"""The evaluator equals pycocotools: crowds, images without objects, sparse ids, sizes, nothing found."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from commands import run
from conditional_detr.data.digits import make_digits
from conditional_detr.errors import DataError
from conditional_detr.evaluation.coco import FIGURES, coco_metrics

IDS = [3, 17, 90]


def scene(seed: int, crowds: float = 0.1) -> tuple[dict, list[dict]]:
    rng = np.random.default_rng(seed)
    truth: dict = {"images": [], "annotations": [], "categories": [{"id": i, "name": f"c{i}"} for i in IDS]}
    found = []
    for i in range(40):
        image_id = 1000 + 7 * i
        truth["images"].append({"id": image_id, "width": 640, "height": 480, "file_name": f"{i}.jpg"})
        for _ in range(0 if i % 9 == 0 else rng.integers(1, 12)):
            w, h = rng.uniform(8, 300, 2)
            x, y = rng.uniform(0, 640 - w), rng.uniform(0, 480 - h)
            category = int(rng.choice(IDS))
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image_id, "category_id": category, "bbox": [x, y, w, h],
                 "area": w * h * rng.uniform(0.6, 1), "iscrowd": int(rng.random() < crowds)}
            )  # fmt: skip
            for _ in range(rng.integers(0, 4)):
                box = np.array([x, y, w, h]) + rng.normal(0, 0.12, 4) * [w, h, w, h]
                box[2:] = np.abs(box[2:]) + 1
                right = category if rng.random() < 0.9 else int(rng.choice(IDS))
                found.append({"image_id": image_id, "category_id": right, "bbox": box.tolist(), "score": float(rng.random())})
    return truth, found


def reference(truth: dict, found: list[dict]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("seed", range(3))
def test_the_twelve_figures_and_the_ap_of_each_class(seed: int):
    truth, found = scene(seed)
    theirs, ours = reference(truth, found), coco_metrics(truth, found)
    for name, value in zip(FIGURES, theirs.stats, strict=True):
        assert getattr(ours, name) == pytest.approx(value, abs=1e-9)
    for k, category in enumerate(IDS):
        precision = theirs.eval["precision"][:, :, k, 0, 2]
        assert ours.per_class[f"c{category}"] == pytest.approx(precision[precision > -1].mean(), abs=1e-9)
    assert 0.1 < ours.AP < 0.9


def test_the_path_of_a_file_is_as_good_as_its_content(tmp_path):
    truth, found = scene(4)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert coco_metrics(tmp_path / "truth.json", found) == coco_metrics(truth, found)


def test_nothing_is_changed_and_missing_area_and_crowd_have_their_defaults():
    truth, found = scene(5, crowds=0)
    for row in truth["annotations"]:
        row["area"] = row["bbox"][2] * row["bbox"][3]
    bare = json.loads(json.dumps(truth))
    for row in bare["annotations"]:
        del row["area"], row["iscrowd"], row["id"]
    before = json.dumps([bare, found])
    assert coco_metrics(bare, found) == coco_metrics(truth, found)
    assert json.dumps([bare, found]) == before


def test_nothing_found_is_zero_and_what_does_not_exist_is_none():
    truth, _ = scene(6)
    truth["annotations"] = [row for row in truth["annotations"] if row["area"] > 96**2 and row["category_id"] != 17]
    metrics = coco_metrics(truth, [])
    assert metrics.AP == metrics.AR100 == metrics.APl == 0
    assert metrics.APs is None
    assert metrics.per_class == {"c3": 0, "c17": None, "c90": 0}
    assert json.loads(json.dumps(metrics.to_dict()))["APs"] is None


def test_a_detection_of_an_unknown_image_is_refused():
    truth, found = scene(7)
    with pytest.raises(DataError, match="1 detections belong to images that the ground truth does not list, e.g. id 5"):
        coco_metrics(truth, [{**found[0], "image_id": 5}])


def test_a_ground_truth_that_is_no_coco_is_refused():
    with pytest.raises(DataError, match="the ground truth is not a COCO file: 'categories' must be a list"):
        coco_metrics({"images": [], "annotations": []}, [])
    images, categories = [{"id": 1, "width": 9, "height": 9}], [{"id": 1, "name": "a"}]
    row = {"id": 1, "image_id": [1], "category_id": 1, "bbox": [0, 0, 5, 5]}
    good = {**row, "image_id": "1", "iscrowd": None}
    truth = {"images": images, "annotations": [row, good], "categories": categories}
    found = [{"image_id": "1", "category_id": 1.0, "bbox": [0, 0, 5, 5], "score": 0.9}]
    assert pytest.approx(1) == coco_metrics(truth, found).AP
    with pytest.raises(DataError, match="must have a unique 'id'"):
        coco_metrics({**truth, "images": images * 2}, found)
    with pytest.raises(DataError, match="categories also a 'name'"):
        coco_metrics({**truth, "categories": [{"id": 1}]}, found)
    with pytest.raises(DataError, match="1 detections belong to images that the ground truth does not list, e.g. id 'x'"):
        coco_metrics(truth, [{**found[0], "image_id": "x"}])


def test_predictions_of_eval_judged_by_pycocotools_give_its_metrics(capsys, tmp_path):
    """With the ids of the data set: images in another order than their ids, category ids with gaps, a crowd."""
    make_digits(tmp_path / "d", train=1, valid=8, size=64, seed=3)
    file = tmp_path / "d" / "valid" / "_annotations.coco.json"
    truth = json.loads(file.read_text())
    ids = dict(zip(range(1, 9), (70, 3, 41, 5, 12, 6, 90, 8), strict=True))
    for row in truth["images"]:
        row["id"] = ids[row["id"]]
    for row in truth["annotations"]:
        row.update(image_id=ids[row["image_id"]], category_id=3 * row["category_id"])
    for row in truth["categories"]:
        row["id"] *= 3
    truth["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(truth))
    code, out, err = run(capsys, "eval", "conditional-detr-tiny-digits", "--data", tmp_path / "d", "--output", tmp_path / "e")
    assert code == 0, err
    assert "predictions.json" in out
    found = json.loads((tmp_path / "e" / "predictions.json").read_text())
    assert {row["image_id"] for row in found} == set(ids.values())
    assert {row["category_id"] for row in found} <= {3 * i for i in range(1, 11)}
    assert any(min(row["bbox"][:2]) < 0 for row in found)  # not clipped
    metrics, theirs = json.loads((tmp_path / "e" / "metrics.json").read_text()), reference(truth, found).stats
    for name, value in zip(FIGURES, theirs, strict=True):
        assert (-1.0 if metrics[name] is None else metrics[name]) == pytest.approx(value, abs=1e-9)
    assert metrics["AP"] > 0.2

    for row in truth["images"]:
        row["id"] = f"image {row['id']}"
    for row in truth["annotations"]:
        row["image_id"] = f"image {row['image_id']}"
    file.write_text(json.dumps(truth))
    run(capsys, "eval", "conditional-detr-tiny-digits", "--data", tmp_path / "d", "--output", tmp_path / "t")
    texts = json.loads((tmp_path / "t" / "predictions.json").read_text())
    assert {row["image_id"] for row in texts} == {f"image {i}" for i in ids.values()}


def test_image_ids_may_be_texts():
    """The ids "1_11" and "11_1" are two images, as in pycocotools."""
    ids = ["1_11", "11_1", "8519a9f2-0b75", "07", 7]
    images = [{"id": id_, "width": 50, "height": 50} for id_ in ids]
    rows = [{"id": i, "image_id": id_, "category_id": 1, "bbox": [9 * i, 9 * i, 9, 9]} for i, id_ in enumerate(ids)]
    truth = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "a"}]}
    found = [{"image_id": row["image_id"], "category_id": 1, "bbox": row["bbox"], "score": 0.9} for row in rows]
    assert pytest.approx(1) == coco_metrics(truth, found).AP
    elsewhere = [{**row, "image_id": other} for row, other in zip(found, [*ids[1:], ids[0]], strict=True)]
    assert coco_metrics(truth, elsewhere).AP < 0.3
    with pytest.raises(DataError, match="does not list, e.g. id '111'"):
        coco_metrics(truth, [{**found[0], "image_id": "111"}])
