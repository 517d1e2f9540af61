"""Refined boxes: each decoder layer starts from the boxes of the layer before."""

import pytest
import torch

from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.queries import Queries
from models import perturbed, random_memory, small

MODELS = {"conditional-detr-tiny": {}, "deformable-detr-ss-tiny": {}, "detr-tiny": {}}


@pytest.fixture(params=MODELS)
def model(request) -> DetectionModel:
    return perturbed(small(request.param, box_refinement=True, hidden_dim=32))


def start(model: DetectionModel) -> Queries:
    return model.reference_points(model.object_query, random_memory()).queries


def test_boxes_are_the_boxes_of_the_layer_before_moved_by_the_layers_own_mlp(model):
    with torch.no_grad():
        output = model(torch.randn(2, 3, 64, 96), aux=True)
        boxes = output.all_layers()["boxes"]
        decoded = model.decoder(start(model), random_memory(), model.box_head.refine)
        found = model.box_head(decoded, random_memory())
        before = torch.cat([decoded.references[0], torch.full_like(decoded.references[0], 0.5)], dim=-1)
        for number, layer in enumerate(model.box_head.layers):
            before = torch.sigmoid(layer.mlp(decoded.embeddings[number]) + before.logit(eps=1e-5))
            torch.testing.assert_close(found[number], before, atol=1e-5, rtol=0)
    assert (boxes[1:] - boxes[:-1]).abs().amax((1, 2, 3)).min() > 1e-3  # and every layer moves them
    assert len({layer.mlp.last.weight for layer in model.box_head.layers}) == 3


def test_the_queries_of_a_layer_look_from_the_boxes_of_the_layer_before(model):
    seen = []
    for layer in model.decoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        boxes = model(torch.randn(1, 3, 64, 96), aux=True).all_layers()["boxes"]
    assert seen[0].reference.shape[-1] == 2
    for queries, box in zip(seen[1:], boxes[:-1], strict=True):
        torch.testing.assert_close(queries.reference, box, atol=1e-6, rtol=0)
    if model.config.cross_attention == "conditional":
        assert not torch.allclose(seen[0].embedded, seen[1].embedded, atol=1e-3)


def test_the_boxes_of_a_layer_train_this_layers_head_alone(model):
    """The gradient stops between layers, as published: it reaches earlier layers through embeddings, not through boxes."""
    output = model.train()(torch.randn(1, 3, 64, 96))
    output.all_layers()["boxes"][1].sum().backward()
    reached = [any(p.grad.any() for p in layer.parameters()) for layer in model.box_head.layers]
    assert reached == [False, True, False]


def test_query_groups_refine_their_own_boxes(model):
    images, others = torch.randn(2, 3, 64, 96), torch.randn(2, 7, 32)
    with torch.no_grad():
        together = model(images, extra_queries=others, aux=True).all_layers()["boxes"]
        assert together.shape == (3, 2, 21, 4)
        torch.testing.assert_close(together[:, :, :7], model(images, aux=True).all_layers()["boxes"], atol=1e-5, rtol=0)


def test_only_the_first_layer_starts_with_the_size_of_new_boxes():
    model = small("deformable-detr-ss-tiny", box_refinement=True)
    assert [layer.mlp.last.bias[2].item() for layer in model.box_head.layers] == [-2, 0, 0]
    with torch.no_grad():
        boxes = model(torch.randn(1, 3, 64, 96), aux=True).all_layers()["boxes"]
    torch.testing.assert_close(boxes[..., 2:], torch.full_like(boxes[..., 2:], 1 / (1 + torch.e**2)), atol=1e-4, rtol=0)
