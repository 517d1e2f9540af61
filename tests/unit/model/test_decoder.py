"""Reference points on their way through the decoder."""

import pytest
import torch
from torch import Tensor

from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.decoder import keep_reference
from conditional_detr.model.memory import Memory
from conditional_detr.model.positional import sine_embedding
from conditional_detr.model.queries import Decoded, Queries
from models import perturbed, random_memory, small

SIZES = {"hidden_dim": 32, "num_queries": 5, "encoder_layers": 1}


def start() -> tuple[DetectionModel, Queries, Memory]:
    model, memory = perturbed(small(**SIZES)), random_memory(batch=2)
    return model, model.reference_points(model.object_query, memory).queries, memory


def by_a_tenth(layer: int, embedding: Tensor, queries: Queries) -> Queries:
    return queries.with_reference(queries.reference + 0.1)


def test_every_layer_looks_from_where_the_one_before_it_said():
    model, queries, memory = start()
    seen: list[Queries] = []
    for layer in model.decoder.layers:
        layer.cross_attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decoded = model.decoder(queries, memory, by_a_tenth)
    for number, (reference, looking) in enumerate(zip(decoded.references, seen, strict=True)):
        torch.testing.assert_close(reference, queries.reference + 0.1 * number)
        assert looking.reference is reference
        assert looking.embedded.equal(sine_embedding(reference, 32))
    assert len(seen) == 3
    kept = model.decoder(queries, memory).embeddings
    assert kept[0].equal(decoded.embeddings[0])
    for layer in (1, 2):
        assert (kept[layer] - decoded.embeddings[layer]).abs().max() > 1e-4


def test_a_layer_is_refined_by_its_own_normed_embedding():
    model, queries, memory = start()
    given: list[tuple[int, Tensor]] = []

    def refine(layer: int, embedding: Tensor, queries: Queries) -> Queries:
        given.append((layer, embedding))
        return queries

    embeddings = model.decoder(queries, memory, refine).embeddings
    assert [layer for layer, _ in given] == [0, 1, 2]
    assert torch.stack([embedding for _, embedding in given]).equal(embeddings)


@pytest.mark.parametrize("name", ["conditional-detr-tiny", "detr-tiny"])
def test_what_keeps_the_reference_leaves_all_layers_with_the_same(name: str):
    model, memory = perturbed(small(name, **SIZES)), random_memory(batch=2)
    queries = model.reference_points(model.object_query, memory).queries
    kept, heads, by_default = (
        model.decoder(queries, memory, *refine) for refine in ((keep_reference,), (model.box_head.refine,), ())
    )
    for decoded in (kept, heads, by_default):
        assert [reference.equal(queries.reference) for reference in decoded.references] == [True] * 3
        assert decoded.embeddings.equal(kept.embeddings)


def test_a_box_may_be_the_reference_and_its_centre_is_the_point():
    _, queries, _ = start()
    boxes = torch.rand(2, 5, 4)
    looking = queries.with_reference(boxes)
    assert looking.reference is boxes
    assert looking.embedded.equal(sine_embedding(boxes[..., :2], 32))
    assert looking.content is queries.content
    assert looking.position is queries.position


def test_the_last_layer_alone_is_the_end_of_all():
    _, queries, _ = start()
    decoded = Decoded(torch.randn(3, 2, 5, 32), (queries.reference, queries.reference + 1, queries.reference + 2))
    assert decoded.last.embeddings.equal(decoded.embeddings[2:])
    assert len(decoded.last.references) == 1
    assert decoded.last.references[0] is decoded.references[2]
