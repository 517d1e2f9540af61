"""The model card: its head is valid YAML, texts of users stay texts, and what is not known is said to be unknown."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from conditional_detr.config.presets import PRESETS
from conditional_detr.config.run import RunConfig
from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.errors import ConfigError, RunError
from conditional_detr.sharing.escaping import LONGEST, markdown, one_line
from conditional_detr.sharing.facts import Facts, ModelFacts, Results, SplitFacts, Start, Statements, Training
from conditional_detr.sharing.licences import licence_id
from conditional_detr.sharing.model_card import model_card
from conditional_detr.sharing.push import checked
from conditional_detr.sharing.run_facts import facts_of, results_of, start_of
from models import small

MODEL = ModelFacts(
    PRESETS["conditional-detr-tiny"].model, PreprocessorConfig(imgsz=320), 5_600_000, ["RBC", "WBC"], [0.31, 0.42], 0.7
)
SPLITS = {
    "train": SplitFacts(205, 2400, [2380, 20], (416, 416, 480), (480, 640, 640)),
    "valid": SplitFacts(87, 967, [960, 7], (416, 416, 416), (416, 416, 416)),
}
RESULTS = Results(
    {"AP": 0.53214, "AP50": 0.86, "AP75": 0.6, "APs": None, "APm": 0.5, "APl": 0.55, "AR100": 0.6},
    {"AP": (0.509, 0.553), "AP50": (0.833, 0.893)},
    [0.6, None],
)
TRAINING = Training("fast", 40, 31, 1200.0, {"seed": "42"}, Start("conditional-detr-tiny-shapes", "apache-2.0"), "torch 2.6")
FACTS = Facts("me/blood-cells", "native", MODEL, Statements("cc-by-4.0"), "bccd", SPLITS, RESULTS, TRAINING)

HOSTILE = [
    "<script>alert(1)</script>",
    "a | b | c |",
    "x\n---\nlicense: mit\n---\n# Title",
    "![](https://evil.example/p.png)",
    "[link](https://evil.example)",
    "<https://evil.example>",
    "https://evil.example and www.evil.example and me@evil.example",
    "**bold** _it_ `code` ~~no~~",
    "`` ` ``",
    "\\",
    "\\<b>",
    "&lt;b&gt; &#60;i&#62;",
    "- item",
    "1. item",
    "# heading",
    "$$x$$",
    "a\u202egpj.exe",
    "\x1b[31mred\x00",
    "\ud800",
    "",
    "   ",
    "1e3",
    "no",
    "2024-01-01",
    "{{ jinja }} {% raw %}",
    "'\"",
    "!!python/object/apply:os.system ['x']",
]


def head(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def html(card: str) -> str:
    """The body of a card as CommonMark with the tables, strikethrough and links of GitHub."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return reader.render(card.split("---\n", 2)[2])


class Reader(HTMLParser):
    """Collects the elements, the addresses and the cells of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.rows.append([])  # ends the last row

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def test_the_hubs_own_reader_finds_what_was_written():
    card = ModelCard(model_card(FACTS), ignore_metadata_errors=False)
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "conditional-detr"
    assert card.data.pipeline_tag == "object-detection"
    assert card.data.tags == ["object-detection", "conditional-detr"]
    assert card.data.model_name == "blood-cells"
    found = {each.metric_type: (each.metric_value, each.metric_name) for each in card.data.eval_results}
    assert found == {
        "AP": (0.5321, "AP (95 % interval 0.509 to 0.553)"),
        "AP50": (0.86, "AP50 (95 % interval 0.833 to 0.893)"),
        "AP75": (0.6, "AP75"),
    }
    assert {(each.task_type, each.dataset_name, each.dataset_split) for each in card.data.eval_results} == {
        ("object-detection", "bccd", "valid")
    }


def test_figures_stand_with_their_intervals_and_their_split():
    card = model_card(FACTS)
    assert "| AP | IoU 0.50–0.95 | 0.532 | 0.509 to 0.553 |" in card
    assert "| APs | small objects | – | – |" in card
    assert "on the validation split: 87 images, 967 objects. **This split also chose the epoch" in card
    assert "| RBC | 0.600 | 0.31 | 2,380 | 960 |" in card
    assert "| WBC | – | 0.42 | 20 | 7 |" in card
    assert "| training | 205 | 2,400 | 416 to 480 (416) | 480 to 640 (640) |" in card
    assert "40 epochs in 20 min; the weights are those of epoch 31" in card


def test_limits_name_rare_classes_and_small_sets():
    card = model_card(FACTS)
    assert "trained on 205 images, which is a small set." in card
    assert "Classes with fewer than 50 training objects: “WBC” (20)." in card
    assert "Classes with fewer than 10 validation objects, so that their AP says little: “WBC” (7)." in card
    many = replace(SPLITS["train"], images=5000, objects_by_class=[900, 800])
    card = model_card(replace(FACTS, splits={"train": many}))
    assert "trained on 5000 images. Expect" in card
    assert "fewer than 50" not in card
    assert "finds at most 100 objects in an image" in card
    tiled = replace(MODEL, preprocessor=PreprocessorConfig(imgsz=320, tile=640))
    assert "at most 100 objects" not in model_card(replace(FACTS, model=tiled))


def test_without_a_run_the_card_says_what_is_missing():
    card = model_card(Facts("me/x", "huggingface", replace(MODEL, thresholds=None)))
    assert "model-index" not in head(card)
    assert (head(card)["license"], head(card)["library_name"]) == ("unknown", "transformers")
    for text in (
        "The data set was not stated.",
        "The numbers of images and objects were not recorded.",
        "Not measured: there are no metrics",
        "Accuracy was not measured.",
        "What the model was trained on was not recorded",
        "The training was not recorded.",
        "The licence of the weights was not stated. Ask the owner",
    ):
        assert text in card
    assert "0.3 unless you give another" in card
    assert "AutoModelForObjectDetection" in card


def test_missing_figures_are_no_results():
    empty = Results({"AP": None, "AP50": None}, {}, [None, None])
    card = model_card(replace(FACTS, results=empty))
    assert "model-index" not in head(card)
    assert "| AP | IoU 0.50–0.95 | – | – |" in card


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_stays_a_text(name: str):
    calm = Reader(html(model_card(FACTS)))
    model = replace(MODEL, class_names=[name, "WBC"])
    facts = replace(
        FACTS, model=model, data_name=name, training=replace(TRAINING, start=Start(name, "apache-2.0"), versions=name)
    )
    card = model_card(facts)
    assert yaml.safe_load(card.split("---\n")[1]).keys() == head(model_card(FACTS)).keys()
    dataset = head(card)["model-index"][0]["results"][0]["dataset"]
    assert dataset["name"] == (one_line(name) if name else "unnamed data set")
    assert isinstance(dataset["type"], str)
    assert head(card)["license"] == "cc-by-4.0"
    page = Reader(html(card))
    assert page.elements == calm.elements
    assert page.links == calm.links
    assert [len(row) for row in page.rows] == [len(row) for row in calm.rows]
    shown = one_line(name) or "(no name)"
    assert [shown, "0.600", "0.31", "2,380", "960"] in page.rows


def test_links_without_brackets_are_broken_up():
    """GitHub's readers make links of bare addresses. They look for these characters side by side."""
    text = markdown("https://evil.example, www.evil.example, HTTP://X, me@evil.example")
    assert not re.search(r"://|www\.|(?<!\\)@", text, re.IGNORECASE)


def test_long_names_are_cut():
    assert one_line("x" * 10_000) == "x" * (LONGEST - 1) + "…"
    assert one_line("x" * LONGEST) == "x" * LONGEST


def test_many_classes_are_folded():
    names = [f"class {i}" for i in range(200)]
    model = replace(MODEL, class_names=names, thresholds=[0.5] * 200)
    splits = {"train": replace(SPLITS["train"], objects_by_class=list(range(200)))}
    card = model_card(replace(FACTS, model=model, splits=splits, results=replace(RESULTS, ap_by_class=[0.5] * 200)))
    assert "It finds 200 classes: class 0, class 1" in card
    assert "class 9, and 190 more." in card
    assert "training objects: “class 0” (0), “class 1” (1)" in card
    assert "“class 9” (9), and 40 more." in card
    page = Reader(html(card))
    assert "details" in page.elements
    assert ["class 199", "0.500", "0.50", "199"] in page.rows


@pytest.mark.parametrize(
    ("name", "system", "tag", "cited"),
    [
        ("conditional-detr-r50", "Conditional DETR", "conditional-detr", "meng2021conditional"),
        ("detr-r50", "DETR", "detr", "carion2020end"),
        ("deformable-detr-ss-r50", "Deformable DETR", "deformable-detr", "zhu2021deformable"),
    ],
)
def test_the_system_is_named_and_cited(name: str, system: str, tag: str, cited: str):
    card = model_card(replace(FACTS, model=replace(MODEL, config=PRESETS[name].model)))
    assert f"An object detector: [{system}](https://arxiv.org/abs/" in card
    assert head(card)["tags"][1] == tag
    assert cited in card
    assert "| differs from the paper | in nothing but sizes |" in card


def test_changes_to_the_model_of_the_paper_are_listed():
    config = PRESETS["conditional-detr-r50"].model.model_copy(
        update={"lambda_q": "block", "box_offset": False, "num_queries": 5}
    )
    card = model_card(replace(FACTS, model=replace(MODEL, config=config)))
    assert "| differs from the paper | `lambda_q = block`, `box_offset = false` |" in card


def test_licences_of_weights_start_and_data_are_named():
    card = model_card(
        replace(FACTS, stated=Statements("mit", data_url="https://huggingface.co/datasets/a/b", data_licence="odbl"))
    )
    assert "The licence of the weights is `mit`." in card
    assert "started from conditional-detr-tiny-shapes, which have the licence `apache-2.0`" in card
    assert "[bccd](<https://huggingface.co/datasets/a/b>). Its licence: `odbl`." in card
    assert head(card)["datasets"] == ["a/b"]
    fine_tuned = replace(TRAINING, start=Start("a/b, on the Hugging Face Hub", hub_id="a/b"))
    card = model_card(replace(FACTS, training=fine_tuned))
    assert head(card)["base_model"] == "a/b"
    assert "which have a licence that is not known here" in card


@pytest.mark.parametrize("given", ["MIT", " mit ", "Mit"])
def test_licences_are_read_in_any_case(given: str):
    assert checked(Statements(licence=given)).licence == "mit"


def test_a_licence_that_the_hub_does_not_know_is_refused():
    with pytest.raises(
        ConfigError, match=r"--licence must be a licence id .*, not 'GPL-4.0'. Did you mean [al]?gpl.*give other"
    ):
        licence_id("GPL-4.0", "--licence")


@pytest.mark.parametrize(
    "url", ["", "cells", "ftp://a.b/c", "https://", "https://a b", "https://a.b/\n", 'https://a.b/"', "https://a.b/>)"]
)
def test_an_address_that_is_none_is_refused(url: str):
    with pytest.raises(ConfigError, match="--data-url must be a web address"):
        checked(Statements(data_url=url))


def test_metrics_are_read_by_class_and_damaged_ones_are_missing():
    model = small(num_classes=3, hidden_dim=32)
    model.class_names, model.category_ids = ["cat", "cat", "dog"], [4, 9, 7]
    content = {
        "AP": 0.5, "AP50": "high", "AP75": float("nan"), "APs": True,
        "per_class": {"cat (id 4)": 0.25, "cat (id 9)": None, "dog": 0.75},
        "intervals": {"AP": [0.4, 0.6], "AP50": [0.1], "AP75": None},
    }  # fmt: skip
    found = results_of(content, model)
    assert found.ap_by_class == [0.25, None, 0.75]
    assert found.intervals == {"AP": (0.4, 0.6)}
    assert found.figures["AP"] == 0.5
    assert {found.figures[name] for name in ("AP50", "AP75", "APs")} == {None}
    assert results_of({"per_class": [], "intervals": 3}, model).ap_by_class == [None] * 3


@pytest.mark.parametrize(
    ("values", "name", "licence"),
    [
        (
            {"model": "conditional-detr-tiny", "training": {"init_from": "conditional-detr-tiny-shapes"}},
            "conditional-detr-tiny-shapes, bundled", "apache-2.0",
        ),
        ({"model": "conditional-detr-tiny"}, "ImageNet weights of the backbone, timm tf_efficientnet_lite0.in1k", "apache-2.0"),
        ({"model": "conditional-detr-r50"}, "timm resnet50.tv_in1k", "bsd-3-clause"),
        ({"model": "conditional-detr-r50", "model_overrides": {"backbone": "resnet26.bt_in1k"}}, "timm resnet26.bt_in1k", None),
        ({"model": "/home/me/secret/old"}, "another trained model, old", None),
        ({"model": "secret/old"}, "another trained model, old", None),
        ({"model": "conditional-detr-tiny", "training": {"init_from": r"C:\secret\pre"}}, "another trained model, pre", None),
    ],
)  # fmt: skip
def test_the_start_of_a_run_is_named_without_its_place(values: dict, name: str, licence: str | None):
    start = start_of(RunConfig(data="d", **values))
    assert name in start.name
    assert "secret" not in start.name
    assert (start.licence, start.is_random, start.hub_id) == (licence, False, None)


def test_random_weights_have_no_licence():
    start = start_of(RunConfig(data="d", model="conditional-detr-tiny", pretrained_backbone=False))
    card = model_card(replace(FACTS, training=replace(TRAINING, start=start)))
    assert "| initial weights | random |" in card
    assert "started from" not in card


def test_a_model_from_the_hub_is_known_by_the_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("1" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert start_of(RunConfig(data="d", model="org/name")).hub_id == "org/name"
    assert start_of(RunConfig(data="d", model="org/other")).hub_id is None


def test_a_damaged_fingerprint_is_named(tmp_path):
    (tmp_path / "config.toml").write_text('data = "/data/cells"\n')
    (tmp_path / "metrics.json").write_text('{"AP": 0.5}')
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "AP": 0.5, "AP50": 0.6, "loss": 1.0, "seconds": 2.0}\n')
    model = small(num_classes=2, hidden_dim=32)
    facts = facts_of(model, "me/x", "native", Statements(), tmp_path)
    assert (facts.data_name, dict(facts.splits)) == ("cells", {})  # a run of an older version
    (tmp_path / "fingerprint.json").write_text('{"counts": {"train": {"images": 3}}}')
    with pytest.raises(RunError, match=r"fingerprint.json is damaged: 'counts' must have the images and objects of each split"):
        facts_of(model, "me/x", "native", Statements(), tmp_path)
