"""Runs side by side: what makes a group, what is counted, how it is shown."""

import json

import pytest
import tomli_w

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.run import RunConfig
from conditional_detr.errors import ConfigError, RunError
from conditional_detr.evaluation.compare_runs import (
    differences,
    epochs_to,
    format_range,
    reached,
    read_groups,
    table,
    usual_levels,
    write_comparison,
)


def run_folder(folder, aps, **settings):
    """A run folder with these APs by epoch, ten seconds each."""
    folder.mkdir(parents=True)
    training = RecipeConfig(epochs=settings.pop("epochs", len(aps)))
    config = RunConfig(data="d", model="conditional-detr-tiny", output=str(folder), training=training, **settings)
    (folder / "config.toml").write_text(tomli_w.dumps(config.model_dump(mode="json")))
    rows = [{"epoch": i, "loss": 5.0, "AP": ap, "AP50": ap, "seconds": 10.0} for i, ap in enumerate(aps, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two seeds of one setting, and another one."""
    return [
        run_folder(tmp_path / "ours-seed0", [0.1, 0.3, 0.5, 0.4], seed=0),
        run_folder(tmp_path / "ours-seed1", [0.0, 0.1, 0.3, 0.6], seed=1),
        run_folder(tmp_path / "theirs", [None, 0.1, 0.05, 0.05], model_overrides={"lambda_q": "block"}),
    ]


def test_runs_that_differ_by_seed_alone_are_one_group(runs):
    ours, theirs = read_groups(runs)
    assert (ours.name, theirs.name) == ("ours (2 runs)", "theirs")
    assert [len(rows) for rows in ours.runs] == [4, 4]
    assert differences([ours, theirs]) == {"model_overrides.lambda_q": [None, "block"]}


def test_a_stopped_run_and_the_same_seed_again_stand_alone(tmp_path):
    whole = [run_folder(tmp_path / f"a-s{seed}", [0.1, 0.2], seed=seed) for seed in (0, 1)]
    stopped = run_folder(tmp_path / "a-s2", [0.1], seed=2, epochs=2)
    again = run_folder(tmp_path / "b", [0.1, 0.3], seed=1)
    groups = read_groups([*whole, stopped, again])
    assert [(group.name, len(group.runs)) for group in groups] == [("a (2 runs)", 2), ("a-s2 (stopped: 1 of 2)", 1), ("b", 1)]


def test_an_ap_that_does_not_exist_is_a_dash(tmp_path):
    groups = read_groups([run_folder(tmp_path / "a", [None, None])])
    assert table(groups, [])[1][0][2:] == ["–", "–"]


def test_one_epoch_is_not_plural(tmp_path):
    assert table(read_groups([run_folder(tmp_path / "a", [0.5])]), [0.5])[1][0][4] == "1 epoch\n10 s"


def test_a_name_keeps_its_own_last_letter(tmp_path):
    runs = [run_folder(tmp_path / f"digits-{seed}", [0.1], seed=seed) for seed in (0, 1)]
    assert read_groups(runs)[0].name == "digits (2 runs)"


def test_folders_of_the_same_name_are_told_apart(tmp_path):
    a = run_folder(tmp_path / "a" / "run", [0.1])
    b = run_folder(tmp_path / "b" / "run", [0.1], imgsz=64)
    assert [group.name for group in read_groups([a, b])] == ["a/run", "b/run"]


def test_groups_that_no_name_tells_apart_have_their_first_folders(tmp_path):
    runs = [run_folder(tmp_path / f"run-{i}", [0.1], seed=i, imgsz=64 + 32 * (i > 2)) for i in range(1, 5)]
    assert [group.name.split("/")[-1] for group in read_groups(runs)] == ["run-1 (2 runs)", "run-3 (2 runs)"]


def test_epochs_and_seconds_to_an_ap_are_those_of_the_first_epoch_that_has_it(runs):
    ours, theirs = read_groups(runs)
    assert [epochs_to(rows, 0.3) for rows in ours.runs] == [2, 3]
    assert reached(ours, 0.3).seconds == [20.0, 30.0]
    assert reached(ours, 0.55).epochs == [None, 4]
    assert reached(theirs, 0.3).seconds == [None]


def test_an_ap_that_the_first_evaluation_had_may_have_been_reached_before(tmp_path):
    late = run_folder(tmp_path / "late", [None, None, 0.4, 0.5])
    early = run_folder(tmp_path / "early", [0.1, 0.4, 0.5])
    (first, second), (_, rows) = read_groups([late, early]), table(read_groups([late, early]), [0.3, 0.45])
    assert (epochs_to(first.runs[0], 0.3), epochs_to(second.runs[0], 0.3)) == (3, 2)
    assert [row[4].splitlines()[0] for row in rows] == ["≤ 3 epochs", "2 epochs"]
    assert [row[5].splitlines()[0] for row in rows] == ["4 epochs", "3 epochs"]


def test_the_table_says_more_than_where_a_run_does_not_arrive(runs):
    groups = read_groups(runs)
    assert usual_levels(groups) == [0.15, 0.3, 0.45]
    columns, (ours, theirs) = table(groups, [0.3, 0.55])
    assert columns == ["run", "trained", "best AP", "AP50 (same epoch)", "to AP 0.3", "to AP 0.55"]
    assert ours[1] == "4 epochs\n40 s"
    assert ours[2] == "0.550 (0.500–0.600)"
    assert ours[4] == "2.5 (2–3) epochs\n25 s (20 s–30 s)"
    assert ours[5] == "> 4 epochs (1 of 2 reach it, the first after 4)"
    assert theirs[4] == "> 4 epochs"


def test_what_several_numbers_are_told_as():
    assert format_range([2.0], [], str) == "2.0"
    assert format_range([2.0, 2.0], [], str) == "2.0"
    assert format_range([1.0, 3.0], [], str) == "2.0 (1.0–3.0)"
    assert format_range([None, None], [5, 7], str) == "> 5"
    assert format_range([None, 51.0], [3, 100], str, " epochs") == "> 3 epochs (1 of 2 reach it, the first after 51.0)"


def test_nothing_learned_gives_no_levels(tmp_path):
    assert usual_levels(read_groups([run_folder(tmp_path / "a", [None, 0.0])])) == []


def test_the_page_holds_the_table_and_what_differs(runs, tmp_path):
    groups = read_groups(runs)
    page, sheet, image = write_comparison(groups, [0.3], tmp_path / "new" / "c")
    text = page.read_text()
    assert "ours (2 runs)" in text
    assert "<td>model_overrides.lambda_q</td><td>default</td><td>block</td>" in text
    assert "&gt; 4 epochs" in text
    assert "http" not in text.split("<body>")[1]
    assert sheet.read_text().splitlines()[2].startswith("theirs,")
    assert image.read_bytes().startswith(b"\x89PNG")


def test_what_is_no_run_is_said(tmp_path, runs):
    with pytest.raises(ConfigError, match="is not a run folder: it has no config.toml"):
        read_groups([tmp_path])
    with pytest.raises(ConfigError, match="theirs is given twice"):
        read_groups([*runs, runs[2]])
    (runs[0] / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match="has no finished epoch yet"):
        read_groups(runs)
    good = '{"epoch": 1, "AP": 0.5, "AP50": null, "loss": 1.0, "seconds": 2}'
    changes = (("1,", "2,"), ("0.5", "NaN"), ("0.5", '"high"'), ("2}", "2"), ("2}", '"x"}'), ('"loss": 1.0, ', ""))
    for old, new in changes:
        (runs[0] / "metrics.jsonl").write_text("\n" + good.replace(old, new) + "\n")
        with pytest.raises(RunError, match=r"metrics.jsonl, line 2: this must be epoch 1 with AP, AP50, loss, seconds"):
            read_groups(runs)
    (runs[0] / "metrics.jsonl").write_text(good + "\n" + good + "\n")
    with pytest.raises(RunError, match="line 2: this must be epoch 2"):
        read_groups(runs)
