"""Pre-training with patches: what UP-DETR's queries carry, see and are trained on."""

import pytest
import torch
from torch.nn import functional as F

from conditional_detr.errors import ConfigError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.pretraining.forward import pretraining_output
from conditional_detr.pretraining.objective import PretrainingObjective
from conditional_detr.training.objective.criterion import SetCriterion
from conditional_detr.training.setup.resolve import requested, resolve
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.save import save_model
from models import perturbed, small

FAMILIES = ["up-detr-tiny", "conditional-detr-tiny", "deformable-detr-ss-tiny", "detr-tiny"]
QUERIES, PATCHES, EACH = 23, 10, 2  # the last three queries have no patch
every_family = pytest.mark.parametrize("name", FAMILIES)


def build(name: str, **more: object) -> DetectionModel:
    options = {"num_queries": QUERIES, "hidden_dim": 32, "patches": PATCHES, "classification": "softmax", **more}
    return perturbed(small(name, 2, **options))


def batch(count: int = PATCHES) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images, is_padding = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    is_padding[1, :, 64:] = True
    return images, is_padding, torch.randn(2, count, 3, 32, 32)


def targets(count: int = PATCHES) -> list[dict[str, torch.Tensor]]:
    return [{"labels": torch.ones(count, dtype=torch.int64), "boxes": torch.rand(count, 4) * 0.3 + 0.3} for _ in range(2)]


@every_family
def test_shapes_and_a_gradient_for_every_parameter_but_those_that_patches_pass_by(name: str):
    model = build(name).train()
    model.backbone.requires_grad_(False)
    output = pretraining_output(model, *batch())
    assert output.pred_logits.shape == (2, PATCHES * EACH, 3)
    assert PretrainingObjective.num_queries(model.config) == PATCHES * EACH  # for the totals of a batch
    assert output.pred_features.shape == (2, PATCHES * EACH, 112)
    assert output.aux_features.shape == (2, 2, PATCHES * EACH, 112)
    assert output.patch_features.shape == (2, PATCHES, 112)
    losses = SetCriterion(2, "softmax")(output, targets())
    assert {"loss_feature", "loss_feature_0", "loss_feature_1"} <= set(losses)
    losses["loss"].backward()
    assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]


@every_family
def test_fewer_patches_give_the_first_queries_of_all(name: str):
    """The queries of a patch do not see those of the others."""
    model = build(name)
    images, is_padding, patches = batch()
    with torch.no_grad():
        all_, six = (pretraining_output(model, images, is_padding, p) for p in (patches, patches[:, :6]))
        patches[:, 9] = torch.randn(3, 32, 32)
        other = pretraining_output(model, images, is_padding, patches)
    torch.testing.assert_close(six.pred_boxes, all_.pred_boxes[:, : 6 * EACH], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other.pred_boxes[:, : 9 * EACH], all_.pred_boxes[:, : 9 * EACH], atol=1e-5, rtol=1e-4)
    assert (other.pred_logits[:, 9 * EACH :] - all_.pred_logits[:, 9 * EACH :]).abs().max() > 1e-4


@every_family
def test_patches_are_carried_by_neighbouring_queries_and_may_be_dropped(name: str):
    model = build(name)
    images, is_padding, patches = batch()
    kept = torch.ones(2, QUERIES, dtype=torch.bool)
    with torch.no_grad():
        default, all_kept = (pretraining_output(model, images, is_padding, patches, kept=k) for k in (None, kept))
        kept[:, 5] = False  # a query of the third patch
        dropped = pretraining_output(model, images, is_padding, patches, kept=kept)
        patches[:, 2] = torch.randn(3, 32, 32)
        changed = pretraining_output(model, images, is_padding, patches, kept=kept)
    assert torch.equal(default.pred_logits, all_kept.pred_logits)
    moved = (dropped.pred_logits - default.pred_logits).abs().amax((0, 2)) > 1e-5
    assert moved.nonzero()[:, 0].tolist() == [4, 5]  # its neighbour sees it
    moved = (changed.pred_logits - dropped.pred_logits).abs().amax((0, 2)) > 1e-5
    assert moved.nonzero()[:, 0].tolist() == [4, 5]


def test_in_training_one_of_ten_queries_is_without_its_patch():
    model = build("up-detr-tiny", num_queries=1000).train()
    queries = model.reference_points.with_patches(
        model.object_query, pretraining_memory(model), torch.full((1, PATCHES, 112), 50.0), None
    )
    carried = (queries.position - model.object_query).abs().amax(-1) > 1e-3
    assert 0.85 < carried.float().mean() < 0.95


def pretraining_memory(model: DetectionModel):
    return model.encode(torch.randn(1, 3, 64, 96), None)


def test_up_detr_adds_the_patch_to_the_object_query_and_conditional_detr_to_the_content():
    for name, field in (("up-detr-tiny", "position"), ("conditional-detr-tiny", "content")):
        model = build(name)
        memory, features = pretraining_memory(model), torch.randn(1, PATCHES, 112)
        with torch.no_grad():
            with_, without = (
                model.reference_points.with_patches(model.object_query, memory, features, torch.full((1, QUERIES), k))
                for k in (True, False)
            )
            added = model.reference_points.patch_projection(features).repeat_interleave(EACH, dim=1)
        for each in ("content", "position", "reference"):
            difference = getattr(with_, each) - getattr(without, each)
            torch.testing.assert_close(
                difference, added if each == field else torch.zeros_like(difference), atol=1e-5, rtol=1e-4
            )


def test_the_feature_loss_is_two_minus_twice_the_cosine_per_patch():
    model = build("up-detr-tiny")
    with torch.no_grad():
        output = pretraining_output(model, *batch())
    goals = targets()
    criterion = SetCriterion(2, "softmax")
    losses = criterion(output, goals)
    matched = criterion._matched(
        output.all_layers(), [t | {"features": f} for t, f in zip(goals, output.patch_features, strict=True)]
    )
    cosine = F.cosine_similarity(matched.pairs("features"), matched.target["features"], dim=-1)
    torch.testing.assert_close(losses["loss_feature"], (2 - 2 * cosine).sum() / (2 * PATCHES))
    others = 1 * losses["loss_ce"] + 5 * losses["loss_bbox"] + 2 * losses["loss_giou"]
    torch.testing.assert_close(losses["loss"], others + losses["loss_feature"])


def test_no_gradient_reaches_the_targets():
    model = build("up-detr-tiny").train()
    output = pretraining_output(model, *batch())
    assert not output.patch_features.requires_grad


@every_family
def test_it_is_saved_and_becomes_a_detector_with_all_but_the_class_head(name: str, tmp_path, caplog):
    model = build(name)
    save_model(model, tmp_path / "pre")
    back = load_model(tmp_path / "pre")
    assert back.config == model.config
    detector = load_model(tmp_path / "pre", num_classes=5)
    assert (detector.config.patches, detector.config.num_classes) == (0, 5)
    assert "pre-trained without labels: for 5 classes the class head is initialised anew" in caplog.text
    state, kept = model.state_dict(), detector.state_dict()
    assert all(value.equal(state[key]) for key, value in kept.items() if not key.startswith("class_head."))
    dropped = {key.split(".")[-3] if "mlp" in key else key for key in state.keys() - kept.keys()}
    assert {"reference_points.patch_projection.weight", "reference_points.patch_projection.bias"} <= dropped
    assert detector(torch.randn(1, 3, 64, 96)).pred_boxes.shape == (1, QUERIES, 4)


def test_a_detector_of_a_pretraining_has_the_usual_image_size(tmp_path):
    model = create_model("up-detr-r18", 2, pretrained_backbone=False, patches=2, num_queries=4, hidden_dim=32, encoder_layers=1)
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 480})
    save_model(model, tmp_path / "pre")
    assert load_model(tmp_path / "pre").preprocessor.imgsz == 480
    assert load_model(tmp_path / "pre", num_classes=3).preprocessor.imgsz == 800
    assert resolve(requested({"data": tmp_path, "model": str(tmp_path / "pre")})).imgsz == 800


def test_the_projection_of_patches_starts_as_pytorch_starts_it():
    weight = create_model("up-detr-r18", 2, pretrained_backbone=False, patches=10).reference_points.patch_projection.weight
    assert 0.99 * 512**-0.5 < weight.abs().max() <= 512**-0.5


def test_official_files_of_both_stages_are_told_by_their_tensors(tmp_path):
    model = perturbed(create_model("up-detr-r18", 2, pretrained_backbone=False, patches=10, num_queries=20, hidden_dim=64))
    save_model(model, tmp_path / "pre", format="official")
    content = torch.load(tmp_path / "pre" / "model.pth", weights_only=True)
    assert content["args"]["num_patches"] == 10
    shapes = {key: list(value.shape) for key, value in content["model"].items()}
    assert shapes["patch2query.weight"] == [64, 512]
    assert shapes["feature_align.layers.1.weight"] == [512, 64]
    assert shapes["class_embed.weight"] == [3, 64]
    torch.save(content["model"], tmp_path / "bare.pth")  # the released files are weights alone
    for source in (tmp_path / "pre", tmp_path / "bare.pth"):
        back = load_model(source)
        assert back.config == model.config
        assert all(value.equal(back.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_released_codes_counts_of_parameters():
    model = create_model("up-detr-r50", 2, pretrained_backbone=False, patches=10)
    assert sum(p.numel() for p in model.parameters()) == 42_619_079
    assert sum(p.numel() for key, p in model.named_parameters() if not key.startswith("backbone")) == 19_164_167


def test_what_does_not_fit_is_said():
    model, detector = build("up-detr-tiny"), small("up-detr-tiny", 2)
    images, is_padding, patches = batch(11)
    with pytest.raises(ConfigError, match="this model is a detector, which takes no patches"):
        pretraining_output(detector, images, is_padding, patches)
    with pytest.raises(ConfigError, match="there must be 1 to 10 patches for each image, not 11"):
        pretraining_output(model, images, is_padding, patches)
    with pytest.raises(ConfigError, match="2 images, patches of 1"):
        pretraining_output(model, images, is_padding, patches[:1, :3])
    with pytest.raises(ConfigError, match=r"patches must be \[B, x, 3, h, w\], not \[2, 3, 32, 32\]"):
        pretraining_output(model, images, is_padding, patches[:, 0])
    with pytest.raises(ConfigError, match=r"kept must be bool \[2, 23\], images and queries, not torch.bool \[2, 5\]"):
        pretraining_output(model, images, is_padding, patches[:, :3], kept=torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ConfigError, match="target 1 has 9 boxes, and there are 10 patches"):
        SetCriterion(2, "softmax")(pretraining_output(model, *batch()), [*targets()[:1], *targets(9)[:1]])
    with pytest.raises(ConfigError, match="patches and reference_points = 'encoder' cannot be combined"):
        build("conditional-detr-tiny", reference_points="encoder")
    with pytest.raises(ConfigError, match="this model is for pre-training, and needs patches"):
        model(images)
    with pytest.raises(ConfigError, match="there must be a query for each of the 10 patches: num_queries is 7"):
        build("up-detr-tiny", num_queries=7)
