"""The page of results says what the curves say."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import convergence_tables

    yield convergence_tables
    for name in ("convergence", "convergence_tables"):
        sys.modules.pop(name, None)


def test_the_tables_in_the_document_are_those_of_the_curves(tables):
    text = tables.RESULTS.read_text(encoding="utf-8")
    assert tables.filled(text) == text
    for name in tables.fragments():
        assert f"<!-- begin {name} -->" in text


def test_every_row_has_settings_that_build_and_names_only_rows_that_are_there(tables):
    from conditional_detr.config.parts import IDLE, unused_fields, with_overrides
    from conditional_detr.config.presets import TINY
    from conditional_detr.config.recipes import RecipeConfig
    from conditional_detr.config.schema import ModelConfig

    younger = {
        "query_groups": 1,
        "class_loss": "model",
        "weight_average": 0.0,
        "freeze": 0,
        "init_from": "",
        "progressive_resize_from": 1.0,
        "minutes": 0.0,
        "vflip": 0.0,
        "transpose": 0.0,
        "repeat_threshold": 0.0,
        "tile": 0,
    }  # than the curves; off unless asked for
    assert {key: getattr(RecipeConfig(), key) for key in younger} == younger
    # All else is frozen: nothing is left to defaults.
    younger_parts = {
        "neck": "last",
        "pixel_aligned_positions": False,
        "half_cell_positions": False,
        "encoder_attention": "dense",
        "norm": "post",
        "decoder_norm": True,
        "sampling_points": 4,
        "learned_content": False,
        "size_logit": 0.0,
        "patches": 0,
        "box_refinement": False,
    }
    assert {key: getattr(ModelConfig(), key) for key in younger_parts} == younger_parts
    for name in ("digits", "blood-cells"):
        settings = tables.Study(name).settings
        assert set(settings["model"]) == set(ModelConfig.model_fields) - {"num_classes"} - set(younger_parts)
        moves_no_result = {"gradient_checkpointing"}
        assert set(settings["training"]) == set(RecipeConfig.model_fields) - {"epochs", "lr"} - moves_no_result - set(younger)
        for row, options in settings["rows"].items():
            model = settings["model"] | options.get("model", {})
            idle = unused_fields(ModelConfig(**model))
            built = with_overrides(TINY, {key: value for key, value in model.items() if key not in idle}, row)
            expected = ModelConfig(**model | {key: IDLE[key] for key in idle})
            assert {key: getattr(built, key) for key in model} == {key: getattr(expected, key) for key in model}
            assert options.get("rate_of", row) in settings["rows"]
            assert options.get("baseline", row) in settings["rows"]
    rows = tables.Study("digits").settings["rows"]
    named = {row for table in (*tables.TABLES.values(), *tables.MAIN.values()) for _, row, _ in table}
    assert named == set(rows)


def test_a_ratio_counts_what_each_side_was_given(tables):
    assert tables.ratio([80, 100, 120], [90, 100, 120], [9, 10, 11]) == "**10** (7.27–13.3)"
    assert tables.ratio([None, 60], [240, 60], [10, 10]) == "**> 15**"
    assert "does not arrive" in tables.ratio([60], [60], [10, None])


def test_a_curve_of_other_settings_is_refused(tables, monkeypatch, tmp_path):
    import convergence

    monkeypatch.setattr(convergence, "HERE", tmp_path)
    (tmp_path / "digits.toml").write_text((ROOT / "benchmarks/convergence/digits.toml").read_text())
    study, job = convergence.Study("digits"), convergence.Job("conditional", 1e-4, 0, 12)
    rows = [{"epoch": 1, "seconds": 2.0, "loss": 3.0, "AP": None, "AP50": 0.25, "AP75": 0.125, "lr": 1.0}]
    study.write(job, rows)
    assert study.curve(job) == [{"epoch": 1, "seconds": 2.0, "loss": 3.0, "AP": 0.0, "AP50": 0.25, "AP75": 0.125}]
    study.settings["training"]["batch"] = 8
    with pytest.raises(SystemExit, match="was made with other settings than digits.toml has now"):
        study.curve(job)


def curve(*aps: float) -> list[dict[str, float]]:
    return [{"epoch": i, "AP": ap, "seconds": 1.0, "loss": 1.0} for i, ap in enumerate(aps, 1)]


def test_an_ap_is_the_mean_of_the_last_three_epochs(tables):
    import convergence

    assert convergence.smooth(curve(0.3, 0.0, 0.6, 0.9)) == pytest.approx([0.3, 0.15, 0.3, 0.5])


def test_a_study_asks_for_what_is_missing_in_its_order(tables, monkeypatch):
    import convergence

    study = convergence.Study("digits")
    curves: dict[str, list] = {}
    monkeypatch.setattr(study, "curve", lambda job: curves.get(job.name, []))
    plan = study.plan()
    assert len(plan) == 20  # five systems, four rates; nothing else has a rate yet
    for job in plan:
        curves[job.name] = curve(*[0.001 * (job.lr == 2e-4)] * job.epochs)
        for row in curves[job.name]:
            row["loss"] = 1 / job.lr
    assert study.rate("conditional") == 4e-4  # blind: the lowest loss
    assert study.rate("detr-focal-only") == 4e-4
    curves["conditional-lr0.0002-seed0"] = curve(*[0.2] * 12)
    assert study.rate("query-point") == 2e-4
    assert "detr-focal" not in {job.row for job in study.plan()}  # its target is not known yet
    for seed in range(3):
        curves[f"conditional-lr0.0002-seed{seed}"] = curve(*[0.3 + 0.1 * seed] * 24)
    assert study.target("conditional") == pytest.approx(0.4)
    job = next(job for job in study.plan() if job.row == "detr-focal")
    assert (job.seed, job.epochs, job.until) == (0, 240, pytest.approx(0.4))
    curves[job.name] = curve(*[0.1] * 100, 0.5, 0.5, 0.5)
    assert study.is_done(job)
    assert tables.arrivals(study, "detr-focal", 0.4) == [103]
    curves[job.name] = curve(*[0.5] * 20)
    assert not study.is_done(job)  # arrived, but shorter than the rows that it stands beside
    assert tables.aps(study, "conditional", 24) == []  # nor are ours as long
