"""The reference releases' `.pth`: Conditional DETR's and DETR's.

Independent authorities: torchvision for the backbone's names, PyTorch's own attention for the joint projections, and the
counts and names of the release for the rest.
"""

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from conditional_detr.config.presets import PRESETS
from conditional_detr.errors import CheckpointError, SourceError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.model.queries import Queries
from conditional_detr.weights.discovery import load_model, read_checkpoint
from conditional_detr.weights.key_mapping import KeyTable
from conditional_detr.weights.recognise import find_checkpoint
from conditional_detr.weights.save import save_model
from models import memory_like

SMALL = {"encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 64, "feedforward_dim": 96, "num_queries": 12}
KINDS = ["conditional-detr", "detr", "deformable-detr-ss", "up-detr"]


def small(kind: str, size: str = "r18", **overrides: object) -> DetectionModel:
    model = create_model(f"{kind}-{size}", 5, pretrained_backbone=False, **{**SMALL, **overrides}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def release_state(model: DetectionModel) -> dict[str, torch.Tensor]:
    return KeyTable("official", model.config.cross_attention, model.config.decoder_layers).to_foreign(model.state_dict())


def same(a: DetectionModel, b: DetectionModel) -> bool:
    theirs = b.state_dict()
    return a.config == b.config and all(value.equal(theirs[key]) for key, value in a.state_dict().items())


def namespace(model: DetectionModel, **more: object) -> argparse.Namespace:
    config = model.config
    return argparse.Namespace(
        lr=1e-4, backbone="resnet18", dilation=config.dilation, nheads=8, dropout=config.dropout, masks=False, output_dir="x",
        position_embedding="sine", pre_norm=config.norm == "pre", coco_path=Path("/data/coco"), **more,
    )  # fmt: skip


def test_r50_has_the_releases_564_tensors_and_torchvisions_backbone():
    state = release_state(create_model("conditional-detr-r50", 91, pretrained_backbone=False))
    assert len(state) == 564
    backbone = {key.removeprefix("backbone.0.body.") for key in state if key.startswith("backbone.")}
    theirs = torchvision.models.resnet50(weights=None).state_dict()
    assert backbone == {key for key in theirs if not key.startswith("fc.") and not key.endswith("num_batches_tracked")}
    assert all(state[f"backbone.0.body.{key}"].shape == theirs[key].shape for key in backbone)
    shapes = {
        "transformer.encoder.layers.5.self_attn.in_proj_weight": [768, 256],
        "transformer.encoder.layers.0.norm2.bias": [256],
        "transformer.decoder.layers.0.ca_qpos_proj.weight": [256, 256],
        "transformer.decoder.layers.5.sa_kcontent_proj.bias": [256],
        "transformer.decoder.layers.5.ca_qpos_sine_proj.weight": [256, 256],
        "transformer.decoder.layers.3.cross_attn.out_proj.weight": [256, 256],
        "transformer.decoder.layers.3.self_attn.out_proj.weight": [256, 256],
        "transformer.decoder.layers.2.linear1.weight": [2048, 256],
        "transformer.decoder.layers.2.norm3.weight": [256],
        "transformer.decoder.query_scale.layers.1.weight": [256, 256],
        "transformer.decoder.ref_point_head.layers.1.bias": [2],
        "transformer.decoder.norm.weight": [256],
        "class_embed.weight": [91, 256],
        "bbox_embed.layers.2.weight": [4, 256],
        "query_embed.weight": [300, 256],
        "input_proj.weight": [256, 2048, 1, 1],
    }
    assert {key: list(state[key].shape) for key in shapes} == shapes
    assert "transformer.decoder.layers.1.ca_qpos_proj.weight" not in state


def test_the_joint_projections_are_pytorchs_own():
    model = small("detr")
    state = release_state(model)
    tokens, position, memory = torch.randn(2, 6, 64), torch.randn(1, 6, 64), torch.randn(2, 9, 64)
    queries = Queries.start(position, torch.rand(1, 6, 2))._replace(content=tokens)
    for name, ours in (
        ("transformer.encoder.layers.0.self_attn.", model.encoder.layers[0].self_attention),
        ("transformer.decoder.layers.1.self_attn.", model.decoder.layers[1].self_attention),
        ("transformer.decoder.layers.1.multihead_attn.", model.decoder.layers[1].cross_attention),
    ):
        theirs = nn.MultiheadAttention(64, 8, batch_first=True)
        theirs.load_state_dict({key.removeprefix(name): value for key, value in state.items() if key.startswith(name)})
        with torch.no_grad():
            if "multihead" in name:
                places = torch.randn(1, 9, 64)
                expected = theirs(tokens + position, memory + places, memory, need_weights=False)[0]
                result = ours(queries, memory_like(memory, places))
            else:
                expected = theirs(tokens + position, tokens + position, tokens, need_weights=False)[0]
                result = ours(memory_like(tokens, position) if "encoder" in name else queries)
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "size"), [(kind, size) for kind in KINDS for size in ("r18", "dc5-r50") if f"{kind}-{size}" in PRESETS]
)
def test_saved_and_loaded_it_is_the_same_to_the_last_bit(kind: str, size: str, tmp_path):
    model = small(kind, size, dropout=0.05)
    model.class_names, model.category_ids = ["a", "ß", "c", "d", "e"], [90, 3, 17, 1, 2]
    folder = save_model(model, tmp_path / "m", format="official")
    assert [p.name for p in folder.iterdir()] == ["model.pth"]
    plain = torch.load(folder / "model.pth", weights_only=True)  # nothing in it needs to be trusted
    assert all(value.equal(plain["model"][key]) for key, value in release_state(model).items())
    for source in (folder, folder / "model.pth"):
        back = load_model(source)
        assert same(model, back)
        assert (back.class_names, back.category_ids) == (model.class_names, model.category_ids)
        assert back.preprocessor == model.preprocessor


@pytest.mark.parametrize("kind", KINDS)
def test_training_checkpoints_bare_weights_and_counters(kind: str, tmp_path):
    model = small(kind)
    state = release_state(model)
    counted = {f"module.{key}": value for key, value in state.items()}
    counted["module.backbone.0.body.bn1.num_batches_tracked"] = torch.tensor(7)
    files = {
        "training.pth": {
            "model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "lr_scheduler": {"last_epoch": 3},
            "epoch": 49, "args": namespace(model),
        },
        "model-only.pth": {"model": state},
        "other-key.pth": {"state_dict": state},
        "bare.pth": state,
        "counted.pt": {"model": counted, "args": namespace(model)},
    }  # fmt: skip
    for name, content in files.items():
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=name != "bare.pth")
        assert same(load_model(tmp_path / name), model), name


def test_what_weights_do_not_tell_comes_from_args_or_the_files_name(tmp_path):
    model = small("conditional-detr", "dc5-r50", num_heads=4)
    state = release_state(model)
    torch.save({"model": state, "args": namespace(model)}, tmp_path / "a.pth")
    assert load_model(tmp_path / "a.pth").config.dilation
    torch.save({"model": state}, tmp_path / "ConditionalDETR_r50dc5_epoch50.pth")
    bare = read_checkpoint(tmp_path / "ConditionalDETR_r50dc5_epoch50.pth").config
    assert (bare.dilation, bare.num_heads) == (True, 8)
    torch.save({"model": state}, tmp_path / "r50.pth")
    assert not read_checkpoint(tmp_path / "r50.pth").config.dilation


def test_of_groups_of_queries_the_first_is_kept(tmp_path):
    model = small("conditional-detr")
    state = release_state(model)
    torch.manual_seed(3)
    state["query_embed.weight"] = torch.cat([state["query_embed.weight"], torch.randn(24, 64)])
    torch.save({"model": state, "args": namespace(model, group_detr=3)}, tmp_path / "g.pth")
    assert same(load_model(tmp_path / "g.pth"), model)


def test_trap_91_logits_stand_for_cocos_ids_and_none_for_background(tmp_path):
    model = create_model("detr-r18", 91, pretrained_backbone=False, **SMALL)
    torch.save({"model": release_state(model)}, tmp_path / "detr.pth")
    back = load_model(tmp_path / "detr.pth")
    assert (back.config.num_classes, back.class_names[18], back.class_names[12]) == (91, "dog", "N/A")
    assert back.category_ids == list(range(91))
    assert (back.preprocessor.imgsz, back.preprocessor.longest) == (800, 1333)


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("place", ["args", "model", "all"])
def test_a_checkpoint_never_runs_code(place: str, tmp_path):
    evil = Evil(f"touch {tmp_path}/owned")
    content = evil if place == "all" else {"model": release_state(small("detr")), "args": argparse.Namespace(a=1)}
    if place != "all":
        content[place] = argparse.Namespace(x=evil) if place == "args" else {"a": evil}
    torch.save(content, tmp_path / "e.pth")
    with pytest.raises(
        CheckpointError, match=r"e.pth holds more than weights: it refers to posix.system, which could run code"
    ):
        load_model(tmp_path / "e.pth")
    (tmp_path / "p.pth").write_bytes(pickle.dumps(evil))
    with pytest.raises(CheckpointError, match=r"p.pth"):
        load_model(tmp_path / "p.pth")
    assert not (tmp_path / "owned").exists()


ODD = {
    "a scalar head": {"class_embed.weight": torch.tensor(1.0)},
    "a flat query": {"query_embed.weight": torch.zeros(3)},
    "a scalar layer": {"transformer.decoder.layers.0.linear1.weight": torch.tensor(1.0)},
    "whole numbers": {"input_proj.bias": torch.zeros(64, dtype=torch.int8)},
    "complex numbers": {"input_proj.bias": torch.zeros(64, dtype=torch.complex64)},
    "a sparse tensor": {"class_embed.weight": torch.zeros(5, 64).to_sparse()},
}


@pytest.mark.parametrize("what", ODD)
def test_odd_tensors_are_a_damaged_checkpoint(what: str, tmp_path):
    torch.save({"model": release_state(small("conditional-detr")) | ODD[what]}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth"):
        load_model(tmp_path / "odd.pth")


@pytest.mark.parametrize(
    ("beside", "text"),
    [
        ({"args": [1]}, "must hold a dict under 'args'; it holds a list"),
        ({"args": {"group_detr": "3", "nheads": "many"}}, "num_heads must be a whole number"),
        ({"preprocessor": [1]}, "is damaged"),
        ({"preprocessor": {"std": [0, 1, 1]}}, "std.0 must be greater than 0"),
        ({"class_names": ["a"]}, "class_names must have an entry for each of the 5 classes, not 1"),
        ({"category_ids": [1.5, 2, 3, 4, 5]}, "category_ids must be whole numbers"),
    ],
)
def test_odd_values_beside_the_weights_are_said(beside: dict, text: str, tmp_path):
    torch.save({"model": release_state(small("conditional-detr")), **beside}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "odd.pth")
    assert text in str(caught.value)
    assert "odd.pth" in str(caught.value)


def test_a_folder_whose_name_looks_like_a_file_is_a_folder_and_a_missing_file_is_no_hub_id(tmp_path):
    model = small("detr")
    assert same(load_model(save_model(model, tmp_path / "z.pth", format="official")), model)
    with pytest.raises(SourceError, match=r"weights/r50.pth is neither an existing path nor a model name"):
        find_checkpoint("weights/r50.pth")
    with pytest.raises(SourceError, match="cannot be accessed: File name too long"):
        find_checkpoint("x" * 5000)


def test_timms_name_of_a_resnet_is_kept(tmp_path):
    model = small("detr", backbone="resnet18.a1_in1k")
    for format in ("official", "huggingface"):
        assert load_model(save_model(model, tmp_path / format, format=format)).config.backbone == "resnet18.a1_in1k"


def test_a_full_disk_is_said_in_every_format(tmp_path):
    import resource

    model = small("detr")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    for format in ("native", "huggingface", "official"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
        try:
            with pytest.raises(CheckpointError, match="cannot be written"):
                save_model(model, tmp_path / format, format=format)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert not (tmp_path / format).exists()


def test_what_is_written_can_be_read_by_others_as_the_folder_can(tmp_path):
    folder = save_model(small("detr"), tmp_path / "m")
    assert {oct(file.stat().st_mode & 0o777) for file in folder.iterdir()} == {oct(folder.stat().st_mode & 0o666)}


def test_foreign_and_damaged_files_are_said_with_what_was_expected_and_found(tmp_path):
    file = tmp_path / "x.pth"
    model = small("conditional-detr")
    state = release_state(model)

    def message() -> str:
        with pytest.raises(CheckpointError) as caught:
            load_model(file)
        return str(caught.value)

    file.write_bytes(b"no checkpoint")
    assert "x.pth cannot be read as a PyTorch checkpoint" in message()
    torch.save(state, file)
    file.write_bytes(file.read_bytes()[:5000])
    assert "x.pth cannot be read as a PyTorch checkpoint" in message()
    torch.save([1, 2], file)
    assert "must hold a dict of tensors; it holds a list" in message()
    file.write_text("text")
    assert "it is damaged, or it does not hold a dict of tensors" in message()
    torch.save({"model": {"conv.weight": torch.zeros(3)}}, file)
    assert "(transformer.decoder.layers.0.*, class_embed.*); found conv.weight" in message()
    torch.save({f"detr.{key}": value for key, value in state.items()}, file)
    assert "it is a segmentation model, which is not supported" in message()
    torch.save({key: value for key, value in state.items() if "norm1" not in key} | {"strange": torch.zeros(1)}, file)
    text = message()
    assert "transformer.encoder.layers.0.norm1.weight is missing" in text
    assert "and 4 more" in text
    torch.save({"model": state, "args": namespace(model)}, file)
    content = torch.load(file, weights_only=False)
    content["args"].pre_norm = True
    torch.save(content, file)
    assert "trained with pre_norm = True, but its encoder does not end with a layer norm" in message()
    file.with_suffix(".onnx").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"is a file: a model is a checkpoint folder, .* or a file \*.pth or \*.pt"):
        find_checkpoint(file.with_suffix(".onnx"))
