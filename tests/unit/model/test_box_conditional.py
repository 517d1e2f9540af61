"""Attention that knows the box of the layer before."""

import pytest
import torch

from conditional_detr.errors import ConfigError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.attention.box_conditional import BoxBias, distances
from conditional_detr.model.memory import build_memory
from models import perturbed, random_memory, small

OPTIONS = {"cross_attention": "box_conditional", "box_refinement": True, "hidden_dim": 32}

KINDS = ("box_conditional", "conditional")


@pytest.fixture
def model() -> DetectionModel:
    return perturbed(small("conditional-detr-tiny", **OPTIONS))


def test_at_the_start_it_is_the_attention_of_the_paper():
    told, plain = (small("conditional-detr-tiny", **OPTIONS | {"cross_attention": kind}) for kind in KINDS)
    told.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = (model(images, aux=True).all_layers() for model in (told, plain))
    for name in ("logits", "boxes"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0)


def test_distances_are_signed_and_relative_to_the_image_and_to_the_box():
    low, high, places = torch.tensor([[0.25]]), torch.tensor([[0.75]]), torch.tensor([[0.0, 0.25, 0.5]])
    found = distances(places, low, high)[0, 0]
    expected = torch.tensor([[-2.0, 6.0, -0.5, 1.5], [0.0, 4.0, 0.0, 1.0], [2.0, 2.0, 0.5, 0.5]])
    torch.testing.assert_close(found, expected.sign() * expected.abs().log1p())
    assert torch.isfinite(distances(places, low, low)).all()  # a box without a size


def test_the_bias_of_a_cell_is_the_sum_of_those_of_its_column_and_of_its_row():
    bias = BoxBias(num_heads=2)
    for parameter in bias.parameters():
        parameter.data.normal_()
    images = torch.zeros(1, 3, 96, 128)
    model = small("conditional-detr-tiny", hidden_dim=32)
    with torch.no_grad():
        memory = build_memory(model.input_projection(model.backbone(images)), images, None, model.grid)
        boxes = torch.tensor([[[0.4, 0.6, 0.3, 0.2], [0.5, 0.5, 0.9, 0.9]]])
        found = bias(boxes, memory).unflatten(-1, memory.shapes[0])  # [1, 2, 2, 6, 8]
        along_rows = found - found[..., :1]  # what a column adds is the same in each row
        torch.testing.assert_close(along_rows[..., 0, :], along_rows[..., 3, :], atol=1e-4, rtol=0)
        x0, x1 = boxes[..., 0] - boxes[..., 2] / 2, boxes[..., 0] + boxes[..., 2] / 2
        y0, y1 = boxes[..., 1] - boxes[..., 3] / 2, boxes[..., 1] + boxes[..., 3] / 2
        x, y = memory.centres[0].unflatten(0, memory.shapes[0])[2, 5]
        expected = bias.columns(distances(x.view(1, 1), x0, x1)) + bias.rows(distances(y.view(1, 1), y0, y1))
        torch.testing.assert_close(found[0, :, :, 2, 5], expected[0, :, 0].T, atol=1e-5, rtol=0)


def test_later_layers_hear_the_box_and_the_first_has_none(model):
    biases = []
    for layer in model.decoder.layers:
        attention = layer.cross_attention
        if hasattr(attention, "box_bias"):
            attention.box_bias.register_forward_hook(lambda _, given, bias: biases.append((given[0], bias)))
    with torch.no_grad():
        boxes = model(torch.randn(1, 3, 64, 96), aux=True).aux_boxes
    assert not hasattr(model.decoder.layers[0].cross_attention, "box_bias")
    for (given, bias), box in zip(biases, boxes, strict=True):
        torch.testing.assert_close(given, box, atol=1e-6, rtol=0)
        assert bias.std() > 0.01


def test_the_bias_teaches_nothing_to_the_box_head_of_the_layer_before(model):
    output = model.train()(torch.randn(1, 3, 64, 96))
    output.all_layers()["logits"][1].sum().backward()
    assert not any(p.grad.any() for p in model.box_head.layers[0].parameters() if p.grad is not None)
    assert all(p.grad.any() for p in model.decoder.layers[1].cross_attention.box_bias.columns.parameters())


def test_what_is_explained_is_what_is_computed(model):
    """The combined map, applied to the values, gives the output of the attention; its parts make the whole."""
    memory = random_memory(cells=12)
    queries = model.reference_points(model.object_query, memory).queries
    queries = queries.with_reference(torch.rand(1, 7, 4).clamp(0.2, 0.8))._replace(spatial=torch.randn(1, 7, 32))
    attention = model.decoder.layers[1].cross_attention
    with torch.no_grad():
        maps = attention.explain(queries, memory, torch.arange(7))
        values = attention.v(memory.tokens)[0].unflatten(-1, (attention.num_heads, -1))  # [N, H, d]
        attended = torch.einsum("qhn,nhd->qhd", maps["combined"], values).flatten(1)
        torch.testing.assert_close(attention.out(attended), attention(queries, memory)[0], atol=1e-5, rtol=0)
    product = maps["spatial"] * maps["content"]
    torch.testing.assert_close(product / product.sum(-1, keepdim=True), maps["combined"], atol=1e-5, rtol=0)


def test_without_refined_boxes_there_is_none_to_hear():
    with pytest.raises(ConfigError, match="box_conditional' needs the boxes of the layer before: set box_refinement = true"):
        small("conditional-detr-tiny", cross_attention="box_conditional")
