"""The traps that implementations of this paper fall into: each test fails if its trap is fallen into.

More of them stand where they belong: in test_attention.py (content and space are joined head by head), test_positional.py
(y comes first, a cell's coordinate), test_preprocessing.py (a query may appear with several classes), test_frozen_norm.py
(norms), test_official.py and parity/test_huggingface_folders.py (labels, transformers' own faults).
"""

import math

import pytest
import torch
from torch import Tensor

from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.model.attention import CROSS_ATTENTION
from conditional_detr.model.attention.dense import DenseAttention
from conditional_detr.model.memory import shrink_mask
from conditional_detr.model.queries import Queries
from models import memory_like, perturbed, random_memory, small


def decoded(model: DetectionModel, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model(images, aux=True)
    return torch.cat([output.aux_logits, output.pred_logits[None]])


def queries_of(content: Tensor, position: Tensor, spatial: Tensor | None = None) -> Queries:
    """Queries in the middle of the image."""
    start = Queries.start(position, torch.full((1, position.shape[1], 2), 0.5))
    return start._replace(content=content, spatial=spatial)


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
    model.decoder.spatial_query.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].content))
    streams = []
    for layer in model.decoder.layers:
        layer.register_forward_hook(lambda _, __, output: streams.append(output.content))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    for lambda_input, stream in zip(seen, streams, strict=False):
        torch.testing.assert_close(lambda_input, stream, atol=0, rtol=0)
    assert len(seen) == 2


def test_trap_only_the_first_layer_adds_the_object_query_and_the_position_to_the_content():
    torch.manual_seed(0)
    kinds = CROSS_ATTENTION["conditional"]
    first, later = kinds.first_cross_attention(16, 2, 0.0), kinds.cross_attention(16, 2, 0.0)
    memory = random_memory(cells=6, dim=16)
    some = queries_of(torch.randn(1, 4, 16), torch.randn(1, 4, 16), spatial=torch.randn(1, 4, 16))
    others = some._replace(position=torch.randn(1, 4, 16))
    with torch.no_grad():
        assert (first(some, memory) - first(others, memory)).abs().max() > 1e-4
        torch.testing.assert_close(later(some, memory), later(others, memory), atol=0, rtol=0)
    model = small()
    assert [hasattr(layer.cross_attention, "q_position") for layer in model.decoder.layers] == [True, False, False]


def test_trap_there_is_no_refinement_every_layer_offsets_the_same_reference_point_with_gradient():
    model = perturbed(small()).train()
    output = model(torch.randn(1, 3, 64, 64))
    for boxes in (*output.aux_boxes, output.pred_boxes):
        last = model.reference_points.mlp.layers[-1].bias
        (gradient,) = torch.autograd.grad(boxes[..., :2].sum(), last, retain_graph=True)
        assert (gradient.abs() > 1e-3).all()
    memory = random_memory(cells=4, dim=128)
    with torch.no_grad():
        queries = model.reference_points(model.object_query, memory).queries
        found = model.decoder(queries, memory, model.box_head.refine)
        assert all(reference.equal(queries.reference) for reference in found.references)
        boxes = model.box_head(found, memory)
        centre = torch.logit(boxes[..., :2]) - model.box_head.mlp(found.embeddings)[..., :2]
    expected = torch.logit(queries.reference).expand_as(centre)
    torch.testing.assert_close(centre, expected, atol=1e-4, rtol=1e-4)


def test_trap_the_position_never_enters_the_values():
    model = perturbed(small())
    attention = model.decoder.layers[1].cross_attention
    tokens = torch.randn(1, 1, 128).expand(1, 6, 128)  # the same content everywhere: only values could tell positions
    queries = queries_of(torch.randn(1, 7, 128), model.object_query[None], spatial=torch.randn(1, 7, 128))
    with torch.no_grad():
        a, b = (attention(queries, memory_like(tokens, torch.randn(1, 6, 128))) for _ in range(2))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_trap_one_class_head_and_one_box_head_serve_all_layers():
    names = [n for n, _ in small().named_parameters() if n.startswith(("class_head", "box_head"))]
    assert len(names) == 2 + 6


def by_heads(x: Tensor) -> Tensor:
    return x.view(*x.shape[:-1], 8, -1).transpose(1, 2)


def written_out(query: Tensor, key: Tensor, value: Tensor, divisor: float) -> Tensor:
    weights = (torch.einsum("bhqd,bhnd->bhqn", query, key) / divisor).softmax(-1)
    return torch.einsum("bhqn,bhnd->bqhd", weights, value).flatten(2)


@pytest.mark.parametrize("which", ["first_cross_attention", "cross_attention"])
def test_trap_cross_attention_divides_by_the_root_of_both_widths_and_values_stay_narrow(which: str):
    attention = getattr(CROSS_ATTENTION["conditional"], which)(256, 8, 0.0).eval()
    content, spatial, memory = torch.randn(2, 5, 256), torch.randn(2, 5, 256), torch.randn(2, 9, 256)
    object_query, position = torch.randn(1, 5, 256), torch.randn(1, 9, 256)
    with torch.no_grad():
        query, key = attention.q_content(content), attention.k_content(memory)
        place_query, place_key = attention.q_spatial(spatial), attention.k_spatial(position)
        if which == "first_cross_attention":  # the same spatial key serves both
            query, key = query + attention.q_position(object_query), key + place_key
        both = [torch.cat([by_heads(a), by_heads(b.expand_as(a))], -1) for a, b in ((query, place_query), (key, place_key))]
        value = by_heads(attention.v(memory))
        assert (both[0].shape[-1], value.shape[-1]) == (64, 32)
        expected = attention.out(written_out(*both, value, divisor=8))
        result = attention(queries_of(content, object_query, spatial), memory_like(memory, position))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-4)


def test_trap_self_attention_divides_by_the_root_of_one_width():
    tokens, position = torch.randn(2, 9, 256), torch.randn(1, 9, 256)
    among, encoder = CROSS_ATTENTION["conditional"].self_attention(256, 8, 0.0).eval(), DenseAttention(256, 8, 0.0).eval()
    with torch.no_grad():
        query = among.q_content(tokens) + among.q_position(position)
        key = among.k_content(tokens) + among.k_position(position)
        expected = among.out(written_out(by_heads(query), by_heads(key), by_heads(among.v(tokens)), math.sqrt(32)))
        torch.testing.assert_close(among(queries_of(tokens, position)), expected, atol=1e-5, rtol=1e-4)
        query, key = encoder.q(tokens + position), encoder.k(tokens + position)
        expected = encoder.out(written_out(by_heads(query), by_heads(key), by_heads(encoder.v(tokens)), math.sqrt(32)))
        torch.testing.assert_close(encoder(memory_like(tokens, position)), expected, atol=1e-5, rtol=1e-4)


def test_trap_behind_lambda_every_layer_projects_the_place_with_a_full_matrix_of_its_own():
    layers = [layer.cross_attention for layer in small().decoder.layers]
    for name in ("q_spatial", "k_spatial"):
        weights = [getattr(attention, name).weight for attention in layers]
        assert len({id(weight) for weight in weights}) == 3
        assert not weights[1].equal(weights[2])
        assert weights[0].shape == (128, 128)
        assert getattr(layers[0], name).bias is not None


def test_trap_the_stream_goes_on_unnormed_and_only_the_heads_see_the_shared_norm():
    model = perturbed(small())
    into, out = [], []
    for layer in model.decoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: into.append(inputs[0].content))
        layer.register_forward_hook(lambda _, __, output: out.append(output.content))
    seen = []
    model.class_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].embeddings))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64), aux=True)
        assert into[0].eq(0).all()
        assert into[1] is out[0]
        assert into[2] is out[1]
        torch.testing.assert_close(seen[0], torch.stack([model.decoder.norm(x) for x in out]))


def test_trap_the_encoder_adds_the_position_anew_in_every_layer_never_to_the_values_and_has_no_closing_norm():
    model = perturbed(small())
    values, streams, placed = [], [], []
    for layer in model.encoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0].tokens))
        layer.self_attention.v.register_forward_pre_hook(lambda _, inputs: values.append(inputs[0]))
        layer.self_attention.q.register_forward_pre_hook(lambda _, inputs: placed.append(inputs[0]))
    memory = random_memory(cells=6, dim=128)
    last = []
    model.encoder.layers[-1].register_forward_hook(lambda _, __, output: last.append(output))
    with torch.no_grad():
        out = model.encoder(memory)
    for value, stream, query in zip(values, streams, placed, strict=True):
        assert value is stream
        torch.testing.assert_close(query, stream + memory.position)
    assert out.tokens is last[0].tokens


def test_trap_reference_points_are_computed_once_and_from_the_object_queries_alone():
    model = perturbed(small())
    calls = []
    model.reference_points.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0]))
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    assert len(calls) == 1
    assert calls[0] is model.object_query


def test_trap_lambda_has_no_activation_behind_it_and_starts_small_not_at_one():
    model = small("conditional-detr-r18", hidden_dim=256)
    factors = model.decoder.spatial_query.lambda_q.mlp(torch.randn(1, 50, 256))
    assert factors.min() < 0 < factors.max()
    assert factors.abs().mean() < 0.9


def test_trap_there_is_no_logit_for_no_object_and_every_class_starts_at_one_percent():
    head = small().class_head
    assert head.weight.shape == (5, 128)
    torch.testing.assert_close(head.bias.sigmoid(), torch.full((5,), 0.01))


def test_trap_object_queries_start_as_normal_noise():
    query = create_model("conditional-detr-r18", 2, pretrained_backbone=False).object_query
    assert query.std().item() == pytest.approx(1, abs=0.05)


def test_trap_a_cell_is_padding_if_its_top_left_pixel_is():
    is_padding = torch.arange(96)[None, None] >= torch.tensor(33)
    shrunk = shrink_mask(is_padding.expand(1, 64, 96), torch.zeros(1, 1, 2, 3))
    assert shrunk.tolist() == [[[False, False, True]] * 2]
