"""`cdetr push` against a fake of the Hub: what arrives can be loaded again, and each refusal is one line."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants

from commands import run
from conditional_detr.factory.build import DetectionModel
from conditional_detr.training.trainer import train
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.save import save_model
from hub import TOKEN, Hub, Repository, fake_hub
from models import perturbed, small

FEW = {"hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 2, "feedforward_dim": 32, "num_queries": 8}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A fake Hub that this process uses instead of the real one, with a valid token and an empty cache."""
    with fake_hub() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{found.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the fake has no Xet storage, only LFS
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(tmp_path)
        yield found
        huggingface_hub.close_session()


@pytest.fixture
def native(tmp_path: Path) -> DetectionModel:
    """A model that transformers cannot hold, saved as `m`."""
    model = perturbed(small(num_classes=3, **FEW))
    model.class_names, model.category_ids, model.thresholds = ["cat", "a|b", "dog"], [3, 5, 8], [0.25, 0.5, 0.75]
    save_model(model, tmp_path / "m")
    return model


@pytest.fixture(scope="module")
def finished(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    output = tmp_path_factory.mktemp("secret-place") / "run"
    options = {"epochs": 1, "imgsz": 64, "workers": 0, "threads": 1, "device": "cpu", "pretrained_backbone": False}
    overrides = {"hidden_dim": 32, "feedforward_dim": 32}
    return train(digits_folder, output=output, model_overrides=overrides, quiet=True, **options).folder


def same_outputs(model: DetectionModel, other: DetectionModel) -> None:
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        ours, theirs = model(images), other(images)
    assert torch.equal(ours.pred_logits, theirs.pred_logits)
    assert torch.equal(ours.pred_boxes, theirs.pred_boxes)


def head(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


def test_what_was_pushed_is_loaded_by_its_name(capsys, hub, native):
    code, out, err = run(capsys, "push", "m", "me/cells", "--licence", "Apache-2.0")
    assert code == 0, err
    assert out == f"Pushed m to {hub.url}/me/cells\nTo use it: cdetr predict me/cells IMAGES\n"
    assert err == (
        "note: transformers cannot load this model (strides = (16,)): its files have the native format, which conditional-detr "
        "loads\nnote: m is not the folder of a finished run, so the card has no metrics and says nothing about the training\n"
    )
    pushed = hub.repositories["me/cells"]
    assert set(pushed.files) == {"README.md", "config.json", "model.safetensors"}
    assert (pushed.commits, pushed.private) == (1, False)
    assert head(pushed.files["README.md"])["license"] == "apache-2.0"
    assert head(pushed.files["README.md"])["library_name"] == "conditional-detr"

    loaded = load_model("me/cells")
    assert (loaded.class_names, loaded.category_ids, loaded.thresholds) == (
        native.class_names, native.category_ids, native.thresholds,
    )  # fmt: skip
    same_outputs(native, loaded)


def test_a_model_that_transformers_can_hold_is_pushed_in_its_format(capsys, hub, tmp_path):
    model = perturbed(small("conditional-detr-r18", num_classes=2, **FEW))
    model.thresholds, model.nms_iou = [0.25, 0.5], 0.75
    save_model(model, tmp_path / "m")
    code, _, err = run(capsys, "push", "m", "me/cells", "--licence", "mit")
    assert (code, "transformers" in err) == (0, False)
    files = hub.repositories["me/cells"].files
    assert json.loads(files["config.json"])["model_type"] == "conditional_detr"
    assert "preprocessor_config.json" in files
    assert head(files["README.md"])["library_name"] == "transformers"
    assert b"AutoModelForObjectDetection" in files["README.md"]
    loaded = load_model("me/cells")
    assert (loaded.thresholds, loaded.nms_iou, loaded.preprocessor.imgsz) == ([0.25, 0.5], 0.75, model.preprocessor.imgsz)
    same_outputs(model, loaded)


def test_the_card_of_a_run_has_its_figures_and_no_path(capsys, hub, finished, digits_folder, tmp_path):
    code, _, err = run(capsys, "push", finished, "me/digits", "--data-name", "digits: small", "--data-licence", "cc0-1.0")
    assert code == 0, err
    assert "no licence was given" in err
    card = hub.repositories["me/digits"].files["README.md"]
    metrics = json.loads((finished / "metrics.json").read_text())
    result = head(card)["model-index"][0]["results"][0]
    assert result["dataset"] == {"type": "digits-small", "name": "digits: small", "split": "valid"}
    assert result["metrics"][0]["value"] == round(metrics["AP"], 4)
    low, high = metrics["intervals"]["AP"]
    text = card.decode()
    assert f"| AP | IoU 0.50–0.95 | {metrics['AP']:.3f} | {low:.3f} to {high:.3f} |" in text
    assert head(card)["license"] == "unknown"
    assert "The licence of the weights was not stated." in text
    for split, name in (("train", "training"), ("valid", "validation")):
        content = json.loads((digits_folder / split / "_annotations.coco.json").read_text())
        assert f"| {name} | {len(content['images'])} | {len(content['annotations'])} | 64 | 64 |" in text
    assert "initial weights | random" in text
    assert run(capsys, "push", finished, "me/digits", "--dry-run")[0] == 0
    unnamed = (tmp_path / "hub" / "README.md").read_text()
    assert f"Data set: {digits_folder.name}." in unnamed
    places = [finished.parent.name, digits_folder.parent.name]
    for content in (unnamed.encode(), *hub.repositories["me/digits"].files.values()):
        assert not any(place.encode() in content for place in places)


def test_a_dry_run_uploads_nothing_and_its_card_can_be_changed(capsys, hub, native, tmp_path):
    code, out, _ = run(capsys, "push", "m", "me/cells", "--licence", "mit", "--dry-run", "--private")
    assert code == 0
    assert out == (
        "Wrote hub/README.md, hub/config.json and hub/model.safetensors\n"
        "To upload these files, with the card as it is then: cdetr push hub me/cells --private\n"
    )
    assert not hub.requests
    changed = (tmp_path / "hub" / "README.md").read_text() + "\nMore about the cells.\n"
    (tmp_path / "hub" / "README.md").write_text(changed)
    code, _, err = run(capsys, "push", "hub", "me/cells", "--licence", "mit")
    assert code == 2
    assert "hub/README.md is used as the card, so --licence would have no effect" in err
    assert not hub.repositories
    code, _, err = run(capsys, "push", "hub", "me/cells")
    assert code == 0, err
    assert hub.repositories["me/cells"].files["README.md"].decode() == changed
    same_outputs(native, load_model("me/cells"))


def test_a_dry_run_needs_no_network(capsys, hub, native, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(capsys, "push", "m", "me/cells", "--dry-run", "--output", "o")[0] == 0
    assert (tmp_path / "o" / "README.md").is_file()


def test_a_private_model_is_private(capsys, hub, native):
    assert run(capsys, "push", "m", "me/cells", "--licence", "mit", "--private")[0] == 0
    assert hub.repositories["me/cells"].private
    same_outputs(native, load_model("me/cells"))


def test_nothing_is_uploaded_to_a_public_model_that_must_be_private(capsys, hub, native):
    hub.repositories["me/cells"] = Repository(private=False)
    code, _, err = run(capsys, "push", "m", "me/cells", "--licence", "mit", "--private")
    assert code == 2
    assert "cdetr: me/cells exists and is public, and --private does not change that" in err
    assert not hub.repositories["me/cells"].files
    assert not hub.objects


def test_a_second_push_replaces_the_model(capsys, caplog, hub, native, tmp_path):
    assert run(capsys, "push", "m", "me/cells", "--licence", "mit")[0] == 0
    assert run(capsys, "push", "m", "me/cells", "--licence", "mit")[0] == 0  # the same again
    assert not caplog.records  # the client says that no file has changed
    assert hub.repositories["me/cells"].commits == 1
    other = perturbed(native)
    save_model(other, tmp_path / "m")
    assert run(capsys, "push", "m", "me/cells", "--licence", "mit")[0] == 0
    assert hub.repositories["me/cells"].commits == 2
    same_outputs(other, load_model("me/cells"))


def test_remarks_of_the_hub_about_the_card_are_notes(capsys, hub, native):
    code, _, err = run(capsys, "push", "m", "me/cells", "--licence", "other")
    assert code == 0
    assert "note: the Hub says: Warnings while validating metadata in README.md: - a name is missing\n" in err


def refused(result: tuple[int, str, str], text: str) -> None:
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert text in err
    assert err.startswith("cdetr: ")
    assert err.count("\n") == 1
    assert TOKEN not in err


@pytest.mark.parametrize(
    ("repo", "text"),
    [
        ("cells", "REPO must be the name of a model on the Hub, such as org/name, not 'cells': a name without an owner"),
        ("me/a/b", "REPO must be the name of a model on the Hub, such as org/name, not 'me/a/b': Repo id must be"),
        ("me/--x", "such as org/name, not 'me/--x': "),
        ("me/cells.pth", "such as org/name, not 'me/cells.pth': the name of a file"),
        ("me/zellen-größe", "such as org/name, not 'me/zellen-größe': "),
    ],
)
def test_a_wrong_name_is_refused_before_the_network(capsys, hub, native, repo: str, text: str):
    refused(run(capsys, "push", "m", repo, "--licence", "mit"), text)
    refused(run(capsys, "push", "m", repo, "--licence", "mit", "--dry-run"), text)
    assert not hub.requests


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["conditional-detr-tiny", "me/x"], "conditional-detr-tiny is a model name, not a trained model: train it first"),
        (["nowhere", "me/x"], "nowhere is neither an existing path nor a model name"),
        (
            ["m", "me/x", "--licence", "apache"],
            "--licence must be a licence id of the Hugging Face Hub, not 'apache'. Did you mean",
        ),
        (["m", "me/x", "--data-licence", "none"], "--data-licence must be a licence id of the Hugging Face Hub, not 'none'"),
        (["m", "me/x", "--data-url", "javascript:x"], "--data-url must be a web address, such as https://example.org/cells"),
        (["m", "me/x", "--data-url", "https://a.b/>x"], "--data-url must be a web address"),
        (["m", "me/x", "--output", "."], ". has other files (m): give a new or empty folder (--output)"),
        (["m", "me/x", "--license", "mit"], "push has no option --license. Did you mean --licence?"),
        (["m"], "push needs REPO: see cdetr push --help"),
    ],
)
def test_wrong_input_is_one_line(capsys, hub, native, tokens: list[str], text: str):
    refused(run(capsys, "push", *tokens, "--dry-run"), text)


@pytest.mark.parametrize(
    ("path", "status", "body", "text"),
    [
        ("/commit/", 409, '{"error": "conflict"}', "me/cells cannot be pushed: it was changed at the same time. Push again"),
        (
            "/create",
            401,
            "{}",
            "the Hub does not know you. Run `hf auth login`, or set HF_TOKEN to a token with the permission",
        ),
        ("/create", 403, "{}", "you may not write there. You need a token with the permission to write, and must be me or a"),
        ("/create", 404, "{}", "the Hub does not know me. Check the name"),
        ("/create", 429, "{}", "the Hub received too many requests from you"),
        ("/create", 500, "{}", "me/cells cannot be pushed: the Hub answers with 500: Server error"),
        ("/create", 200, "<html>", "me/cells cannot be pushed: the server does not answer as the Hub does"),
        ("/create", 400, json.dumps({"error": f"what is {TOKEN}"}), "the Hub answers with 400: what is TOKEN"),
        ("/validate-yaml", 400, '{"errors": [{"message": "no"}]}', "cannot be pushed: Invalid metadata in README.md. - no"),
        ("/objects/", 403, "{}", "you may not write there"),
    ],
)
@pytest.mark.usefixtures("native")
def test_a_refusal_of_the_hub_is_one_line(capsys, hub, path: str, status: int, body: str, text: str):
    hub.failing[path] = (status, body)
    code, out, err = run(capsys, "push", "m", "me/cells", "--licence", "mit")
    refused((code, out, err), text)
    assert "me/cells" not in hub.repositories or not hub.repositories["me/cells"].files


def test_a_wrong_token_and_a_wrong_owner_are_refused(capsys, hub, native, monkeypatch):
    refused(run(capsys, "push", "m", "others/cells", "--licence", "mit"), "must be others or a member of it")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(run(capsys, "push", "m", "me/cells", "--licence", "mit"), "the Hub does not know you")
    monkeypatch.delenv("HF_TOKEN")
    refused(run(capsys, "push", "m", "me/cells", "--licence", "mit"), "the Hub does not know you")
    assert not hub.repositories


def test_without_a_server_nothing_is_tried(capsys, hub, native, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        refused(
            run(capsys, "push", "m", "me/cells", "--licence", "mit"),
            "me/cells cannot be pushed, because the Hub is unreachable (no connection to 127.0.0.1",
        )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(run(capsys, "push", "m", "me/cells"), "the Hub is unreachable (HF_HUB_OFFLINE is set). Use --dry-run")
