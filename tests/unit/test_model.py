"""The whole detector: its size, its start, and the traps that implementations of this paper fall into."""

import copy

import pytest
import torch

from conditional_detr.config import PRESETS
from conditional_detr.factory import DetectionModel, create_model
from conditional_detr.model.decoder import CROSS_ATTENTIONS
from conditional_detr.model.positional import sine_embedding

SMALL = {"encoder_layers": 1, "decoder_layers": 3, "feedforward_dim": 64, "num_queries": 7}


def small(name: str = "conditional-detr-tiny", **overrides: object) -> DetectionModel:
    torch.manual_seed(0)
    return create_model(name, num_classes=5, pretrained_backbone=False, **{**SMALL, **overrides}).eval()


def perturbed(model: DetectionModel, scale: float = 0.05) -> DetectionModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model


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
        features = model.backbone(torch.randn(1, 3, 64, 96))
    stride = 16 if name.endswith("-tiny") or "dc5" in name else 32
    assert features.shape[-2:] == (64 // stride, 96 // stride)
    assert output.pred_logits.shape == (1, 7, 6 if name.startswith("detr") else 5)
    assert output.pred_boxes.shape == (1, 7, 4)
    assert output.aux_logits is None


def test_at_the_start_boxes_are_reference_points_of_half_size_and_every_class_has_probability_one_percent():
    model = small()
    with torch.no_grad():
        output = model(torch.randn(2, 3, 64, 64))
        points = model.reference_points(model.object_query).sigmoid()
    torch.testing.assert_close(output.pred_boxes[..., :2], points.expand(2, -1, -1), atol=1e-6, rtol=0)
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


def test_the_record_is_frozen():
    output = small()(torch.randn(1, 3, 64, 64))
    with pytest.raises(AttributeError):
        output.pred_boxes = None


def decoded(model: DetectionModel, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(images, aux=True)
    return torch.cat([output.aux_logits, output.pred_logits[None]])


def test_trap_the_first_layer_uses_the_plain_point_and_all_later_ones_share_one_lambda():
    model = perturbed(small())
    images = torch.randn(1, 3, 64, 64)
    before = decoded(model, images)
    with torch.no_grad():
        model.decoder.spatial_query.lambda_q.mlp.layers[-1].bias.add_(1)
    after = decoded(model, images)
    torch.testing.assert_close(after[0], before[0], atol=0, rtol=0)
    assert (after[1] - before[1]).abs().max() > 1e-4
    assert sum("lambda_q" in name for name in model.state_dict()) == 4


def test_trap_lambda_reads_the_stream_before_the_shared_norm():
    model = perturbed(small())
    seen = []
    model.decoder.spatial_query.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    streams = []
    for layer in model.decoder.layers:
        layer.register_forward_hook(lambda _, __, output: streams.append(output))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    for lambda_input, stream in zip(seen, streams, strict=False):
        torch.testing.assert_close(lambda_input, stream, atol=0, rtol=0)
    assert len(seen) == 2


def test_trap_only_the_first_layer_adds_the_object_query_and_the_position_to_the_content():
    _, first, later = CROSS_ATTENTIONS["conditional"]
    torch.manual_seed(0)
    embedding, spatial, memory = torch.randn(1, 4, 16), torch.randn(1, 4, 16), torch.randn(1, 6, 16)
    queries, position = torch.randn(2, 4, 16), torch.randn(1, 6, 16)
    with torch.no_grad():
        out = [
            [layer(embedding, query, spatial, memory, position, None) for query in queries]
            for layer in (first(16, 2, 0.0), later(16, 2, 0.0))
        ]
    assert (out[0][0] - out[0][1]).abs().max() > 1e-4
    torch.testing.assert_close(out[1][0], out[1][1], atol=0, rtol=0)
    model = small()
    assert [hasattr(layer.cross_attention, "q_position") for layer in model.decoder.layers] == [True, False, False]


def test_trap_there_is_no_refinement_every_layer_offsets_the_same_reference_point_with_gradient():
    model = perturbed(small()).train()
    output = model(torch.randn(1, 3, 64, 64))
    for boxes in (*output.aux_boxes, output.pred_boxes):
        last = model.reference_points.mlp.layers[-1].bias
        (gradient,) = torch.autograd.grad(boxes[..., :2].sum(), last, retain_graph=True)
        assert (gradient.abs() > 1e-3).all()
    with torch.no_grad():
        points = model.reference_points(model.object_query).sigmoid()
        for head_input in model.decoder(model.object_query, points, torch.randn(1, 4, 128), torch.randn(1, 4, 128), None):
            boxes = model.box_head(head_input, points)
            centre = torch.logit(boxes[..., :2]) - model.box_head.mlp(head_input)[..., :2]
            torch.testing.assert_close(centre[0], torch.logit(points), atol=1e-4, rtol=1e-4)


def test_trap_the_position_never_enters_the_values():
    model = perturbed(small())
    attention = model.decoder.layers[1].cross_attention
    memory = torch.randn(1, 1, 128).expand(1, 6, 128)  # the same content everywhere: only values could tell positions
    arguments = torch.randn(1, 7, 128), model.object_query, torch.randn(1, 7, 128), memory
    with torch.no_grad():
        a, b = (attention(*arguments, torch.randn(1, 6, 128), None) for _ in range(2))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_trap_one_class_head_and_one_box_head_serve_all_layers():
    names = [n for n, _ in small().named_parameters() if n.startswith(("class_head", "box_head"))]
    assert len(names) == 2 + 6


def test_what_lies_in_padding_does_not_reach_the_other_images_or_the_unpadded_part():
    model = perturbed(small())
    torch.manual_seed(1)
    memory, position = torch.randn(1, 12, 128), torch.randn(1, 12, 128)
    is_padding = torch.arange(12)[None] >= 8
    points = torch.rand(7, 2)
    with torch.no_grad():
        short = model.encoder(memory[:, :8], position[:, :8], None)
        short = model.decoder(model.object_query, points, short, position[:, :8], None)
        long = model.encoder(memory, position, is_padding)
        long = model.decoder(model.object_query, points, long, position, is_padding)
    torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["conditional-detr-tiny", "conditional-detr-r18"])
def test_a_batch_of_two_equals_two_singles(name: str):
    model = perturbed(small(name))
    images = torch.randn(2, 3, 64, 96)
    is_padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    is_padding[1, :, 64:] = True
    images[1, :, :, 64:] = 0
    with torch.no_grad():
        both = model(images, is_padding)
        for i in range(2):
            alone = model(images[i : i + 1], is_padding[i : i + 1])
            torch.testing.assert_close(both.pred_logits[i], alone.pred_logits[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(both.pred_boxes[i], alone.pred_boxes[0], atol=1e-5, rtol=1e-5)


def test_a_mask_without_padding_is_the_same_as_none():
    model = perturbed(small())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        a, b = model(images), model(images, torch.zeros(1, 64, 96, dtype=torch.bool))
    torch.testing.assert_close(a.pred_boxes, b.pred_boxes, atol=1e-5, rtol=1e-5)


def test_the_gradient_reaches_every_trainable_parameter():
    model = perturbed(small()).train()
    output = model(torch.randn(1, 3, 64, 64))
    sum(t.square().sum() for t in (output.pred_logits, output.pred_boxes, output.aux_logits, output.aux_boxes)).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


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


def test_points_and_grid_share_one_embedding():
    points = torch.tensor([[[0.25, 0.5]]])
    torch.testing.assert_close(sine_embedding(points, 16)[0, 0], sine_embedding(points[0, 0], 16))
