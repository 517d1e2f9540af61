"""The whole detector: its size, its start, and what holds of it for any input."""

import copy
from dataclasses import dataclass

import pytest
import torch

from conditional_detr.config.presets import PRESETS
from conditional_detr.factory.create import create_model
from conditional_detr.model import detr
from conditional_detr.model.detr import DETR, DetectionOutput
from conditional_detr.model.memory import Memory
from conditional_detr.model.queries import Decoded, Queries
from models import memory_like, perturbed, small


def test_r50_with_91_classes_has_the_papers_trainable_parameters():
    model = create_model("conditional-detr-r50", num_classes=91, pretrained_backbone=False)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 43_196_001
    assert sum(p.numel() for p in model.parameters()) - trainable == 222_400  # stem and first stage
    assert sum(p.numel() for p in model.encoder.parameters()) == 7_890_432
    assert sum(p.numel() for p in model.decoder.layers.parameters()) == 11_117_312


@pytest.mark.parametrize("name", PRESETS)
def test_every_model_name_builds_runs_and_has_the_stride_it_says(name: str):
    model = small(name)
    with torch.no_grad():
        output = model(torch.randn(1, 3, 64, 96))
        levels = model.input_projection(model.backbone(torch.randn(1, 3, 64, 96)))
    strides = (8, 16, 32) if "-ms-" in name else (16,) if name.endswith("-tiny") or "dc5" in name else (32,)
    assert model.config.strides == model.grid.strides == strides
    assert [x.shape[-2:] for x in levels] == [(64 // stride, 96 // stride) for stride in strides]
    assert output.pred_logits.shape == (1, 7, 6 if name.startswith(("detr", "up-detr")) else 5)
    assert output.pred_boxes.shape == (1, 7, 4)
    assert output.aux_logits is None


def test_at_the_start_boxes_are_reference_points_of_half_size_and_every_class_has_probability_one_percent():
    model = small()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 64, 64), aux=True)
        queries, objectness, _ = model.reference_points(model.object_query, output.memory)
    assert objectness is None
    torch.testing.assert_close(output.pred_boxes[..., :2], queries.reference.expand(2, -1, -1), atol=1e-6, rtol=0)
    assert output.pred_boxes[..., 2:].eq(0.5).all()
    torch.testing.assert_close(model.class_head.bias.sigmoid(), torch.full((5,), 0.01))


def test_the_earlier_layers_are_returned_while_training_or_when_asked_for():
    model = small()
    images = torch.randn(1, 3, 64, 64)
    asked = model(images, aux=True)
    assert asked.aux_logits.shape == (2, 1, 7, 5)
    assert asked.aux_boxes.shape == (2, 1, 7, 4)
    assert model(images).aux_boxes is None
    assert model.train()(images).aux_boxes is not None
    assert model.train()(images, aux=False).aux_boxes is None
    torch.testing.assert_close(asked.pred_boxes, model.eval()(images).pred_boxes)


class Depth(torch.nn.Linear):
    """A head that predicts a number a query."""

    predicts = "depth"

    def forward(self, decoded: Decoded, memory: Memory) -> torch.Tensor:
        return super().forward(decoded.embeddings)[..., 0]


@dataclass(frozen=True)
class WithDepth(DetectionOutput):
    pred_depth: torch.Tensor | None = None
    aux_depth: torch.Tensor | None = None


@torch.no_grad()
def test_a_further_head_predicts_beside_the_others_under_its_own_name(monkeypatch):
    monkeypatch.setattr(detr, "DetectionOutput", WithDepth)  # a further head needs two fields more in the record
    names = ("backbone", "encoder", "reference_points", "decoder", "class_head", "box_head")
    plain = perturbed(small())
    parts = {name: getattr(plain, name) for name in names}
    heads = {name: parts.pop(name) for name in ("class_head", "box_head")} | {"depth_head": Depth(128, 1)}
    model = DETR(**parts, neck=plain.input_projection, grid=plain.grid, heads=heads).eval()
    model.object_query.copy_(plain.object_query)
    images = torch.randn(1, 3, 64, 64)
    output, expected = model(images, aux=True), plain(images, aux=True)
    assert {name: layers.shape for name, layers in output.all_layers().items()} == {
        "logits": (3, 1, 7, 5), "boxes": (3, 1, 7, 4), "depth": (3, 1, 7),
    }  # fmt: skip
    assert output.pred_boxes.equal(expected.pred_boxes)
    assert output.aux_logits.equal(expected.aux_logits)
    seen = []
    model.class_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].embeddings))
    torch.testing.assert_close(model(images).pred_depth, heads["depth_head"](Decoded(seen[-1], ()), output.memory)[-1])
    assert any(key.startswith("depth_head.") for key in model.state_dict())


def test_what_lies_in_padding_does_not_reach_the_other_images_or_the_unpadded_part():
    model = perturbed(small())
    torch.manual_seed(1)
    tokens, position = torch.randn(1, 12, 128), torch.randn(1, 12, 128)
    short = memory_like(tokens[:, :8], position[:, :8])
    long = memory_like(tokens, position, is_padding=torch.arange(12)[None] >= 8)
    decoded = []
    for memory in (short, long):
        with torch.no_grad():
            encoded = model.encoder(memory)
            queries = model.reference_points(model.object_query, encoded).queries
            decoded.append(model.decoder(queries, encoded, model.box_head.refine).embeddings)
    torch.testing.assert_close(*decoded, atol=1e-5, rtol=1e-5)


def test_a_mask_without_padding_is_the_same_as_none():
    model = perturbed(small())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        a, b = model(images), model(images, torch.zeros(1, 64, 96, dtype=torch.bool))
    torch.testing.assert_close(a.pred_boxes, b.pred_boxes, atol=1e-5, rtol=1e-5)


def test_under_autocast_boxes_and_logits_come_in_float32_and_near_the_exact_ones():
    model = perturbed(small())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images)
    assert rough.pred_boxes.dtype == rough.pred_logits.dtype == torch.float32
    assert (rough.pred_boxes - exact.pred_boxes).abs().max() < 0.02


def test_layers_start_different_from_each_other():
    layers = small().decoder.layers
    assert not torch.equal(layers[1].self_attention.v.weight, layers[2].self_attention.v.weight)


def test_the_encoders_projections_start_as_one_joint_xavier_matrix():
    layer = create_model("conditional-detr-r18", pretrained_backbone=False).encoder.layers[0].self_attention
    bound = (6 / (256 + 3 * 256)) ** 0.5
    assert 0.95 * bound < layer.q.weight.abs().max() <= bound
    assert layer.q.bias.eq(0).all()
    assert layer.out.weight.abs().max() > bound


def test_a_model_can_be_copied():
    model = perturbed(small())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(model)(images).pred_boxes, model(images).pred_boxes)


def test_the_memorys_position_and_the_queries_points_are_embedded_alike():
    model = small()
    with torch.no_grad():
        memory = model(torch.randn(1, 3, 64, 96), aux=True).memory
    queries = Queries.start(torch.zeros(1, 24, 128), memory.points)
    assert memory.points.shape == (1, 24, 2)
    assert memory.position.equal(queries.embedded)
