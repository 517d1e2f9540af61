"""Folders of transformers in all the forms that they come in, read and written back."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from oracle import FAMILIES, KINDS, build_oracle, random_images
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor, ConditionalDetrImageProcessor, DetrImageProcessor

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.errors import CheckpointError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.images.decoding import decode
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.weights.discovery import load_model, read_checkpoint
from conditional_detr.weights.recognise import find_checkpoint
from conditional_detr.weights.save import save_model

PARTS = {"encoder_layers": 1, "decoder_layers": 2}
SMALL = {**PARTS, "backbone": "resnet18", "d_model": 64, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96}
EXACT = {"atol": 0, "rtol": 0}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind as transformers writes it."""
    folders = {kind: tmp_path_factory.mktemp("hf") / kind for kind in KINDS}
    for kind, folder in folders.items():
        build_oracle(kind, **SMALL).save_pretrained(folder)
    return folders


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "copy"))


def edit(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text())
    for key, value in values.items():
        if value is None:
            content.pop(key, None)
        else:
            content[key] = value
    file.write_text(json.dumps(content))


def same(a: DetectionModel, b: DetectionModel) -> bool:
    theirs = b.state_dict()
    return a.config == b.config and all(value.equal(theirs[key]) for key, value in a.state_dict().items())


def predictions(model: DetectionModel) -> Tensor:
    with torch.no_grad():
        return model(*random_images(128, 160)).pred_boxes


@every_kind
def test_written_back_it_is_the_same_to_the_last_bit_for_them_and_for_us(kind: str, saved, tmp_path):
    ours = load_model(saved[kind])
    ours.class_names = ["person", "dog", "ß", "a b", "e", "f", "g"]
    ours.category_ids = [1, 18, 3, 4, 90, 6, 7]
    ours.thresholds, ours.nms_iou = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 0.65
    ours.preprocessor = PreprocessorConfig(imgsz=480, max_size=640, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    save_model(ours, tmp_path / "back", format="huggingface")
    before, after = load_file(saved[kind] / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    copies = {f"{head}.{k}." for head in ("class_embed", "bbox_embed") for k in range(1, 6)} if kind == "deformable" else ()
    assert set(before) == {key for key in after if not key.startswith(tuple(copies))}  # version 5 writes one of the equal heads
    assert all(value.equal(after[key]) for key, value in before.items())

    back = load_model(tmp_path / "back")
    assert same(ours, back)
    assert (back.class_names, back.category_ids) == (ours.class_names, ours.category_ids)
    assert (back.thresholds, back.nms_iou) == (ours.thresholds, ours.nms_iou)
    assert back.preprocessor == ours.preprocessor

    theirs = KINDS[kind][1].from_pretrained(tmp_path / "back").eval()
    original = KINDS[kind][1].from_pretrained(saved[kind]).eval()
    images, is_padding = random_images(128, 160)
    with torch.no_grad():
        a, b = (model(images, (~is_padding).long()).logits for model in (theirs, original))
    torch.testing.assert_close(a, b, **EXACT)
    assert theirs.config.id2label == dict(enumerate(ours.class_names))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "back")
    assert dict(processor.size) == {"shortest_edge": 480, "longest_edge": 640}
    assert list(processor.image_mean) == [0.5, 0.4, 0.3]


@every_kind
@pytest.mark.parametrize("dilation", [False, True])
def test_a_model_of_ours_is_theirs(kind: str, dilation: bool, tmp_path):
    name = FAMILIES[kind] + ("-dc5-r50" if dilation else "-r18")
    ours = create_model(
        name, 3, pretrained_backbone=False, encoder_layers=1, decoder_layers=2, hidden_dim=64, num_queries=9
    ).eval()
    save_model(ours, tmp_path / "hf", format="huggingface")
    theirs = KINDS[kind][1].from_pretrained(tmp_path / "hf").eval()
    images, is_padding = random_images(128, 160)
    with torch.no_grad():
        a, b = theirs(images, (~is_padding).long()), ours(images, is_padding)
    torch.testing.assert_close(a.logits, b.pred_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a.pred_boxes, b.pred_boxes, atol=5e-5, rtol=1e-4)
    assert same(ours, load_model(tmp_path / "hf"))


@every_kind
def test_names_of_major_version_5_counters_and_wrappers(kind: str, saved, tmp_path):
    folder = copied(saved[kind], tmp_path)
    in_memory = KINDS[kind][1].from_pretrained(folder).state_dict()
    assert any(".mlp.fc1." in key for key in in_memory), "these are the names of version 5"
    state = {f"module.{key}": value.clone() for key, value in in_memory.items()}
    state["module.model.backbone.model.bn1.num_batches_tracked"] = torch.tensor(3)
    save_file(state, folder / "model.safetensors")
    assert same(load_model(folder), load_model(saved[kind]))


def test_heads_of_deformable_detr_are_read_once_or_as_equal_copies(saved, tmp_path):
    folder = copied(saved["deformable"], tmp_path)
    state = load_file(folder / "model.safetensors")
    ours = load_model(folder)
    assert sum(key.startswith("class_embed.") for key in state) == 2, "version 5 writes one of the heads"
    copies = {
        key.replace("embed.0.", f"embed.{k}."): v.clone() for key, v in state.items() for k in (0, 1) if "embed.0." in key
    }
    save_file(state | copies, folder / "model.safetensors")
    assert same(load_model(folder), ours)
    copies["bbox_embed.1.layers.2.bias"] += 1
    save_file(state | copies, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match="the heads bbox_embed.0 and bbox_embed.1 differ, as in a model with refined boxes"
    ):
        load_model(folder)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"num_feature_levels": None}, "num_feature_levels = 4"),  # the default of transformers
        ({"num_feature_levels": 2}, "num_feature_levels = 2"),
        ({"with_box_refine": True, "two_stage": True}, "with_box_refine = True, two_stage = True"),
        ({"encoder_n_points": 2}, "2 encoder_n_points and 4 decoder_n_points: they must be equal"),
    ],
)
def test_other_forms_of_deformable_detr_are_refused_by_name(values: dict, text: str, saved, tmp_path):
    folder = copied(saved["deformable"], tmp_path)
    edit(folder, **values)
    with pytest.raises(CheckpointError, match=text):
        load_model(folder)


@every_kind
@pytest.mark.parametrize("form", ["pickled", "shards"])
def test_weights_in_other_files(kind: str, form: str, saved, tmp_path):
    folder = copied(saved[kind], tmp_path)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "pickled":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        files = {key: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, key in enumerate(state)}
        for file in set(files.values()):
            save_file({key: state[key] for key in files if files[key] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert same(load_model(folder), load_model(saved[kind]))


@every_kind
def test_transformers_own_resnet(kind: str, tmp_path):
    oracle = build_oracle(kind, use_timm_backbone=False, **PARTS)
    oracle.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert ours.config.backbone == "resnet50.tv_in1k"
    images, is_padding = random_images(128, 160)
    with torch.no_grad():
        a, b = oracle(images, (~is_padding).long()), ours(images, is_padding)
    torch.testing.assert_close(a.logits, b.pred_logits, atol=3e-4, rtol=0)


@every_kind
def test_a_dilated_model_that_transformers_wrote(kind: str, tmp_path):
    oracle = build_oracle(kind, dilation=True, **PARTS)
    oracle.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert (ours.config.dilation, ours.config.strides) == (True, (16,))
    images, is_padding = random_images(128, 160)
    with torch.no_grad():
        a, b = oracle(images, (~is_padding).long()), ours(images, is_padding)
    torch.testing.assert_close(a.logits, b.pred_logits, atol=3e-4, rtol=0)


@pytest.mark.parametrize(
    ("values", "dilated"),
    [
        ({"backbone_config": None, "use_timm_backbone": True, "backbone": "resnet18", "dilation": True}, True),
        ({"backbone_config": None, "backbone": "resnet18", "backbone_kwargs": {"output_stride": 16}}, True),
        ({"backbone_config": None, "backbone": "resnet18", "backbone_kwargs": {"out_indices": [1, 2, 3, 4]}}, False),
        ({"backbone_config": None, "use_timm_backbone": True, "backbone": "resnet18"}, False),
        ({"backbone_config": {"model_type": "timm_backbone", "output_stride": 16}}, True),
        ({"backbone_config": {"model_type": "timm_backbone"}, "dilation": True}, False),
        ({"backbone_config": None, "backbone": "resnet18", "backbone_kwargs": {"out_indices": [4]}, "dilation": True}, True),
    ],
)
def test_dilation_in_older_and_newer_fields(values: dict, dilated: bool, saved, tmp_path):
    folder = copied(saved["conditional"], tmp_path)
    edit(folder, **values)
    assert load_model(folder).config.dilation == dilated


@pytest.mark.parametrize("kind", ["conditional", "detr"])
def test_trap_with_auxiliary_loss_transformers_runs_another_model_than_the_weights_are_of(kind: str, saved, tmp_path):
    folder = copied(saved[kind], tmp_path)
    edit(folder, auxiliary_loss=True)
    images, is_padding = random_images(128, 160)
    with torch.no_grad():
        right, wrong = (
            KINDS[kind][1].from_pretrained(source).eval()(images, (~is_padding).long()).logits
            for source in (saved[kind], folder)
        )
        ours = load_model(folder)(images, is_padding).pred_logits
    torch.testing.assert_close(ours, right, atol=2e-4, rtol=0)
    assert (ours - wrong).abs().max() > 0.01


def test_names_ids_and_preprocessing_come_along(saved, tmp_path):
    folder = copied(saved["conditional"], tmp_path)
    plain = load_model(folder)
    assert plain.class_names == ["0", "1", "2", "3", "4", "5", "6"]
    assert (plain.preprocessor.imgsz, plain.preprocessor.longest) == (800, 1333)
    edit(folder, id2label={str(i): name for i, name in enumerate("abcdefg")})
    edit(folder, id2label={"1": "cat", "6": "dog"})
    assert load_model(folder).class_names == ["N/A", "cat", "N/A", "N/A", "N/A", "N/A", "dog"]
    edit(folder, id2label={str(i): name for i, name in enumerate("abcdefg")})
    ConditionalDetrImageProcessor(size={"shortest_edge": 512, "longest_edge": 700}).save_pretrained(folder)
    named = load_model(folder)
    assert named.class_names == list("abcdefg")
    assert (named.preprocessor.imgsz, named.preprocessor.longest) == (512, 700)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 600, "max_size": 1000, "image_mean": [0, 0, 0]}))
    older = load_model(folder).preprocessor
    assert (older.imgsz, older.longest, older.mean) == (600, 1000, (0, 0, 0))


def test_91_classes_without_names_are_cocos(tmp_path):
    oracle = build_oracle("detr", num_labels=91, **SMALL)
    oracle.save_pretrained(tmp_path)
    DetrImageProcessor().save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert (model.class_names[0], model.class_names[1], model.class_names[17], model.class_names[90]) == (
        "N/A",
        "person",
        "cat",
        "toothbrush",
    )
    assert model.class_names.count("N/A") == 11
    assert model.category_ids == list(range(91))


@every_kind
def test_other_classes_keep_all_but_the_class_head_and_that_is_said(kind: str, saved, caplog):
    with caplog.at_level(logging.WARNING):
        other = load_model(saved[kind], num_classes=3)
    assert "has 7 classes: for 3 the class head is initialised anew, all other weights are kept" in caplog.text
    whole = load_model(saved[kind]).state_dict()
    kept = {key for key, value in other.state_dict().items() if value.shape == whole[key].shape and value.equal(whole[key])}
    assert set(whole) - kept == {"class_head.weight", "class_head.bias"}
    assert predictions(other).equal(predictions(load_model(saved[kind])))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model_type": ["detr"]}, "must have the model_type conditional_detr or detr"),
        ({"backbone_config": {"output_stride": 8}}, "has the backbone's output_stride = 8; only 16 and 32 are supported"),
        ({"backbone_config": {"downsample_in_bottleneck": True}}, "the backbone's downsample_in_bottleneck = True"),
        ({"backbone_config": "resnet"}, "must describe the backbone by a JSON object; it has 'resnet'"),
        (
            {"architectures": ["ConditionalDetrForSegmentation"]},
            "must describe a ConditionalDetrForObjectDetection; it describes a ConditionalDetrForSegmentation",
        ),
        ({"model_type": "yolos"}, "must have the model_type conditional_detr or detr or deformable_detr; it has 'yolos'"),
        ({"activation_function": "gelu"}, "has activation_function = 'gelu'; only 'relu' is supported"),
        ({"position_embedding_type": "learned"}, "position_embedding_type = 'learned'"),
        ({"encoder_attention_heads": 4}, "has 4 encoder_attention_heads and 8 decoder_attention_heads"),
        ({"num_queries": 11}, "model.query_position_embeddings.weight is [300, 64], expected [11, 64]"),
        ({"decoder_layers": 1}, "model.decoder.layers.1.ca_kcontent_proj.bias is not expected"),
        ({"d_model": "wide"}, "hidden_dim must be a whole number"),
        ({"id2label": {"0": "a", "7": "b"}}, "must name the 7 classes of the head in 'id2label', by numbers from 0"),
    ],
)
def test_what_does_not_fit_is_said(values: dict, text: str, saved, tmp_path):
    folder = copied(saved["conditional"], tmp_path)
    edit(folder, **values)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert text in str(caught.value)


def test_damaged_foreign_and_missing_weights_are_said_with_the_first_keys_that_differ(saved, tmp_path):
    folder = copied(saved["conditional"], tmp_path)
    state = load_file(folder / "model.safetensors")
    state["strange"] = state.pop("model.input_projection.bias")
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"input_projection.bias is missing; strange is not expected"):
        load_model(folder)
    save_file({key: value for key, value in state.items() if ".layer4." not in key}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"must hold a ResNet-18, -34, .* found stages of 2, 2, 2, 0 blocks"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights: one of model.safetensors, .*, pytorch_model.bin is required"):
        load_model(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret"}}))
    with pytest.raises(CheckpointError, match="must say in 'weight_map' which file of the folder"):
        load_model(folder)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"size": {"height": 640, "width": 640}}, "or by max_height and max_width, which keep the aspect ratio"),
        ({"size": {"max_height": 480, "max_width": 640}}, "must have equal max_height and max_width"),
        ({"do_rescale": False}, "has do_rescale = False; only True is supported"),
        ({"rescale_factor": 1 / 127.5}, "only 1/255 is supported"),
        ({"resample": 0}, "has resample = 0; only 2 is supported"),
        ({"image_std": [0, 1, 1]}, "std.0 must be greater than 0"),
    ],
)
def test_preprocessing_that_is_not_ours_is_refused(values: dict, text: str, saved, tmp_path):
    folder = copied(saved["conditional"], tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": None, **values}))
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert text in str(caught.value)


def test_a_repository_on_the_hub_is_fetched_whole_and_of_one_revision(saved, monkeypatch):
    asked = []

    def download(repo: str, file: str, revision: str | None = None, local_files_only: bool = False) -> str:
        asked.append((file, revision))
        if not (saved["detr"] / file).is_file():
            raise (LocalEntryNotFoundError if local_files_only else EntryNotFoundError)(file)
        return str(saved["detr"] / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("conditional_detr.storage.hub.out_of_reach", lambda: None)
    assert find_checkpoint("facebook/detr") == saved["detr"]
    assert asked[0] == ("config.json", None)
    assert {revision for _, revision in asked[1:]} == {saved["detr"].name}
    assert {file for file, _ in asked} == {"config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.mark.parametrize("format", ["huggingface", "official"])
@pytest.mark.parametrize(
    ("name", "overrides", "text"),
    [
        ("conditional-detr-r18", {"spatial_query": "point"}, "cannot hold spatial_query = 'point'"),
        ("conditional-detr-r18", {"lambda_q": "block"}, "cannot hold lambda_q = 'block'"),
        ("conditional-detr-r18", {"reference_points": "learned"}, "cannot hold reference_points = 'learned'"),
        ("conditional-detr-r18", {"box_offset": False}, "cannot hold box_offset = False"),
        ("conditional-detr-r18", {"classification": "softmax"}, "cannot hold classification = 'softmax'"),
        ("detr-r18", {"classification": "focal"}, "cannot hold classification = 'focal'"),
        ("conditional-detr-r18", {"strides": [16]}, "cannot hold strides = (16,)"),
        ("conditional-detr-r18", {"neck": "space_to_depth"}, "cannot hold neck = 'space_to_depth'"),
        ("conditional-detr-r18", {"pixel_aligned_positions": True}, "cannot hold pixel_aligned_positions = True"),
        ("detr-tiny", {"strides": [32]}, "cannot hold backbone = 'tf_efficientnet_lite0.in1k'"),
    ],
)
def test_a_format_refuses_what_it_has_no_room_for_and_names_the_field(
    format: str, name: str, overrides: dict, text: str, tmp_path
):
    small = {"encoder_layers": 0, "decoder_layers": 1, "hidden_dim": 32, "num_queries": 3}
    model = create_model(name, 2, pretrained_backbone=False, **small, **overrides)
    with pytest.raises(CheckpointError) as caught:
        save_model(model, tmp_path / "m", format=format)
    assert f"the format {format!r} {text}" in str(caught.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("values", [{"tile": 640}, {"size_multiple": 32}])
def test_preprocessing_that_transformers_does_not_have_is_not_saved(values: dict, saved, tmp_path):
    model = load_model(saved["conditional"])
    model.preprocessor = PreprocessorConfig(imgsz=480, **values)
    with pytest.raises(CheckpointError, match=f"cannot hold a preprocessor's {next(iter(values))}. Save it as 'native'"):
        save_model(model, tmp_path / "m", format="huggingface")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("thresholds", ["high", [0.5], [2.0] * 7, {"a": 1}])
def test_damaged_thresholds_are_said(thresholds: object, saved, tmp_path):
    folder = copied(saved["conditional"], tmp_path)
    edit(folder, thresholds=thresholds)
    with pytest.raises(CheckpointError, match=r"config.json describes a model that cannot be built"):
        load_model(folder)


def test_what_a_folder_is_is_told(saved):
    assert read_checkpoint(saved["detr"]).kind == "Hugging Face folder (detr)"


@pytest.mark.parametrize("size_hw", [(120, 168), (168, 120), (90, 90), (30, 200)])
@every_kind
def test_a_limit_of_height_and_width_with_pad_size_is_read(kind: str, size_hw: tuple[int, int], saved, tmp_path):
    """The fine-tuning guide of transformers writes this preprocessing."""
    folder = copied(saved[kind], tmp_path)
    limits = {"size": {"max_height": 192, "max_width": 192}, "pad_size": {"height": 192, "width": 192}, "do_pad": True}
    name = "ConditionalDetrImageProcessor" if kind == "conditional" else "DetrImageProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": name, "resample": 2, **limits}))
    image = np.kron(np.random.default_rng(0).integers(0, 255, (*(side // 10 for side in size_hw), 3)), np.ones((10, 10, 1)))
    image = image.astype(np.uint8)
    ours = load_model(folder)
    assert (ours.preprocessor.imgsz, ours.preprocessor.longest) == (192, 192)

    inputs = AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (192, 192)
    theirs = KINDS[kind][1].from_pretrained(folder).eval()
    height, width = int(inputs["pixel_mask"][0, :, 0].sum()), int(inputs["pixel_mask"][0, 0].sum())
    prepared = Preprocessor(ours.preprocessor)(decode(image))
    assert max(abs(prepared.shape[1] - height), abs(prepared.shape[2] - width)) <= 1  # they truncate the shorter side
    with torch.no_grad():
        padded = theirs(**inputs)
        same_input = ours(inputs["pixel_values"], inputs["pixel_mask"] == 0)
        whole = theirs(inputs["pixel_values"][:, :, :height, :width])
        ours_alone = ours(prepared[None])
    torch.testing.assert_close(same_input.pred_logits, padded.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(same_input.pred_boxes, padded.pred_boxes, atol=1e-4, rtol=0)
    if prepared.shape[1:] == (height, width):
        torch.testing.assert_close(ours_alone.pred_boxes, whole.pred_boxes, atol=0.02, rtol=0)  # values differ by resizing
