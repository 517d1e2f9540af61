"""Intervals of AP: resampled images, weights, coverage; and whether runs differ."""

import json

import numpy as np
import pytest
from test_compare_runs import run_folder

from commands import run
from conditional_detr.data.digits import make_digits
from conditional_detr.data.index import load_split
from conditional_detr.evaluation.bootstrap import ClassMatches, difference, intervals, metrics_of, resampled_metrics
from conditional_detr.evaluation.coco import coco_evaluate
from conditional_detr.evaluation.compare_runs import read_groups
from conditional_detr.evaluation.significance import compare_groups

CLASSES = 3


def scene(images: int, seed: int = 0, noise: float = 0.08, crowds: float = 0.1) -> tuple[dict, list[dict]]:
    """Ground truth and detections: noisy boxes, false positives, crowds, equal scores, images without objects."""
    rng = np.random.default_rng(seed)
    truth: dict = {"images": [], "annotations": [], "categories": [{"id": 5 + 2 * k, "name": str(k)} for k in range(CLASSES)]}
    found = []
    for i in range(images):
        truth["images"].append({"id": 10 + i})
        for _ in range(rng.integers(0, 7)):
            box = np.concatenate([rng.uniform(0, 400, 2), rng.uniform(10, 120, 2)])
            category = int(5 + 2 * rng.integers(CLASSES))
            row = {"image_id": 10 + i, "category_id": category, "bbox": box.tolist()}
            crowd = int(rng.random() < crowds)
            truth["annotations"].append(row | {"id": len(truth["annotations"]), "area": box[2] * box[3], "iscrowd": crowd})
            for _ in range(rng.integers(0, 3)):
                near = box + rng.normal(0, noise, 4) * box[[2, 3, 2, 3]]
                found.append(row | {"bbox": near.tolist(), "score": round(float(rng.random()), 2)})
        wrong = np.concatenate([rng.uniform(0, 400, 2), rng.uniform(10, 120, 2)]).tolist()
        found.append({"image_id": 10 + i, "category_id": 5, "bbox": wrong, "score": float(rng.random())})
    return truth, found


def drawn(truth: dict, found: list[dict], times: np.ndarray) -> tuple[dict, list[dict]]:
    """A data set in which each image occurs as many times as `times` says, as images of their own."""
    copies = [(i, copy) for i, count in enumerate(times.tolist()) for copy in range(count)]
    number = {each: n for n, each in enumerate(copies)}

    def rows(of: list[dict]) -> list[dict]:
        return [row | {"image_id": number[each]} for each in copies for row in of if row["image_id"] == 10 + each[0]]

    annotations = [row | {"id": n} for n, row in enumerate(rows(truth["annotations"]), 1)]
    return truth | {"images": [{"id": n} for n in number.values()], "annotations": annotations}, rows(found)


@pytest.mark.parametrize("seed", range(3))
def test_all_images_once_are_the_metrics_themselves(seed: int):
    truth, found = scene(40, seed)
    result = coco_evaluate(truth, found)
    once = metrics_of(result.matches, np.ones((1, 40), dtype=int))
    assert once["AP"][0] == pytest.approx(result.metrics.AP, abs=1e-12)
    assert once["AP50"][0] == pytest.approx(result.metrics.AP50, abs=1e-12)


def test_an_image_that_is_drawn_twice_counts_twice():
    truth, found = scene(20)
    rng = np.random.default_rng(1)
    for row in found:
        row["score"] = float(rng.random())  # equal scores of copies keep the order of the images
    times = rng.multinomial(20, np.full(20, 1 / 20), 6)
    ours = metrics_of(coco_evaluate(truth, found).matches, times)
    for i, counts in enumerate(times):
        theirs = coco_evaluate(*drawn(truth, found, counts)).metrics
        assert (ours["AP"][i], ours["AP50"][i]) == (pytest.approx(theirs.AP, abs=1e-9), pytest.approx(theirs.AP50, abs=1e-9))


def part(matches: ClassMatches, images: np.ndarray) -> ClassMatches:
    position = np.full(len(matches.objects), -1)
    position[images] = np.arange(len(images))
    kept = position[matches.images] >= 0
    return ClassMatches(position[matches.images[kept]], matches.right[:, kept], matches.wrong[:, kept], matches.objects[images])


def test_intervals_contain_the_ap_that_other_images_give():
    """Many sets of 50 images: their mean AP lies in the interval of about 95 % of them, whose width is that of their spread."""
    result = coco_evaluate(*scene(2000))
    rng = np.random.default_rng(0)
    sets = [
        [part(each, chosen) for each in result.matches] for chosen in (rng.choice(2000, 50, replace=False) for _ in range(80))
    ]
    once = np.ones((1, 50), dtype=int)
    aps = np.array([metrics_of(each, once)["AP"][0] for each in sets])
    found = np.array([intervals(each)["AP"] for each in sets[:40]])
    covered = (found[:, 0] <= aps.mean()) & (aps.mean() <= found[:, 1])
    assert covered.mean() >= 0.85
    assert (found[:, 1] - found[:, 0]).mean() / 3.92 == pytest.approx(aps.std(), rel=0.2)
    assert ((found[:, 0] <= aps[:40]) & (aps[:40] <= found[:, 1])).all()


def test_intervals_of_extremes():
    truth, _ = scene(10, crowds=0)
    perfect = [row | {"score": 0.5} for row in truth["annotations"]]
    assert coco_evaluate(truth, perfect).intervals == {"AP": [pytest.approx(1), 1.0], "AP50": [pytest.approx(1), 1.0]}
    assert coco_evaluate(truth, []).intervals == {"AP": [0.0, 0.0], "AP50": [0.0, 0.0]}
    empty = truth | {"annotations": []}
    assert coco_evaluate(empty, perfect).intervals == {"AP": None, "AP50": None}
    assert coco_evaluate(truth | {"categories": [], "annotations": []}, []).intervals == {"AP": None, "AP50": None}


def test_the_same_seed_draws_the_same_images():
    matches = coco_evaluate(*scene(20)).matches
    np.testing.assert_array_equal(resampled_metrics(matches)["AP"], resampled_metrics(matches)["AP"])
    assert (resampled_metrics(matches)["AP"] != resampled_metrics(matches, seed=1)["AP"]).any()


def test_pairs_show_a_difference_that_separate_intervals_do_not():
    truth, found = scene(40)
    rng = np.random.default_rng(0)
    better = [row for row in found if rng.random() > 0.1 or row["score"] < 0.5]  # a tenth of the detections is missing
    first, second = coco_evaluate(truth, better), coco_evaluate(truth, found)
    both = difference([first.matches], [second.matches])
    assert both.value == pytest.approx(second.metrics.AP - first.metrics.AP)
    assert both.low < both.value < both.high
    assert both.high - both.low < np.ptp(second.intervals["AP"])
    same = difference([first.matches], [first.matches, first.matches])
    assert (same.value, same.low, same.high, same.is_clear) == (0, 0, 0, False)


@pytest.fixture
def compared(tmp_path):
    """Two runs on one data set: one finds all objects, the other every second one."""
    make_digits(tmp_path / "data", 2, 12, 96)
    index = load_split(tmp_path / "data", "valid")
    rows = [
        {
            "image_id": index.written_ids[i],
            "category_id": index.categories[label].id,
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "score": 0.9,
        }
        for i in range(len(index))
        for box, label in zip(*index.objects(i), strict=True)
    ]
    folders = []
    for name, own, seed in (("half", rows[::2], 0), ("all", rows, 1)):
        folder = run_folder(tmp_path / name, [0.1], seed=seed)
        config = (folder / "config.toml").read_text().replace('data = "d"', f'data = "{tmp_path / "data"}"')
        (folder / "config.toml").write_text(config)
        metrics = coco_evaluate(index.ground_truth(), [row | {"image_id": _number(index, row)} for row in own]).metrics
        (folder / "metrics.json").write_text(json.dumps(metrics.to_dict()))
        (folder / "predictions.json").write_text(json.dumps(own))
        folders.append(folder)
    return folders


def _number(index, row: dict) -> int:
    return dict(zip(index.written_ids, index.image_ids.tolist(), strict=True))[row["image_id"]]


def test_compare_says_whether_runs_differ(compared):
    (sentence,) = compare_groups(["half", "all"], [[compared[0]], [compared[1]]])
    assert sentence.startswith("all against half: AP +0.")
    assert sentence.endswith("): they differ")
    (sentence,) = compare_groups(["one", "other"], [[compared[0]], [compared[0]]])
    assert sentence == "other against one: AP +0.000 (95 % interval +0.000 to +0.000): no clear difference"
    assert compare_groups(["one"], [[compared[0]]]) == []


def test_compare_names_what_it_cannot_read(compared, tmp_path, capsys):
    groups = [[compared[0]], [compared[1]]]
    (compared[1] / "predictions.json").write_text(json.dumps([]))
    (sentence,) = compare_groups(["a", "b"], groups)
    assert "all had AP 1.000, but its detections have AP 0.000 on" in sentence
    (compared[1] / "predictions.json").write_text(json.dumps([{"image_id": "none"}]))
    assert "predictions.json does not fit the data set" in compare_groups(["a", "b"], groups)[0]
    (compared[1] / "predictions.json").unlink()
    assert "predictions.json cannot be read: No such file" in compare_groups(["a", "b"], groups)[0]
    assert len(read_groups(compared)) == 1  # the seed alone differs, so there is nothing to compare
    other = run_folder(tmp_path / "else", [0.2], model_overrides={"lambda_q": "block"})
    code, out, _ = run(capsys, "compare", compared[0], other, "--output", tmp_path / "page")
    assert code == 0
    assert "Whether the runs differ was not computed: " in " ".join(out.split())
