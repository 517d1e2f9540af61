from itertools import permutations

import numpy as np
import pytest
import torch

from conditional_detr.training.objective.matcher import assign, match, matching_cost

WEIGHTS = {"cost_class": 2.0, "cost_bbox": 5.0, "cost_giou": 2.0, "classification": "focal"}


def random_batch(counts: list[int], layers: int = 2, queries: int = 6, classes: int = 4, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, len(counts), queries, classes, generator=generator)
    boxes = torch.rand(layers, len(counts), queries, 4, generator=generator) * 0.4 + 0.1
    targets = [
        {
            "labels": torch.randint(classes, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.4 + 0.1,
        }
        for n in counts
    ]
    return logits, boxes, targets


def test_the_assignment_is_the_cheapest_of_all():
    cost = np.random.default_rng(0).random((5, 3))
    query, target = assign(cost)
    cheapest = min(sum(cost[q, m] for m, q in enumerate(chosen)) for chosen in permutations(range(5), 3))
    assert cost[query, target].sum() == pytest.approx(cheapest)


def test_every_object_of_every_layer_is_matched_once_within_its_own_image():
    logits, boxes, targets = random_batch([3, 0, 2])
    layer, image, query, target = match(logits, boxes, targets, **WEIGHTS)
    owner = torch.tensor([0, 0, 0, 2, 2])
    assert image.equal(owner[target])
    for each in range(2):
        assert sorted(target[layer == each].tolist()) == [0, 1, 2, 3, 4]
        pairs = list(zip(image[layer == each].tolist(), query[layer == each].tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)


def test_each_block_is_matched_as_if_it_were_alone():
    logits, boxes, targets = random_batch([3, 1, 2])
    layer, image, query, _ = match(logits, boxes, targets, **WEIGHTS)
    for each in range(2):
        for b in range(3):
            block = matching_cost(logits[each, b], boxes[each, b], targets[b]["labels"], targets[b]["boxes"], **WEIGHTS)
            assert query[(layer == each) & (image == b)].tolist() == assign(block.numpy())[0].tolist()


def test_more_objects_than_queries_match_every_query():
    logits, boxes, targets = random_batch([9], layers=1)
    _, _, query, target = match(logits, boxes, targets, **WEIGHTS)
    assert sorted(query.tolist()) == list(range(6))
    assert len(set(target.tolist())) == 6


def test_a_batch_without_objects_matches_nothing():
    logits, boxes, targets = random_batch([0, 0])
    assert [len(part) for part in match(logits, boxes, targets, **WEIGHTS)] == [0, 0, 0, 0]


def test_a_query_that_is_not_finite_is_matched_last():
    logits, boxes, targets = random_batch([2], layers=1)
    boxes[0, 0, :3] = torch.nan
    _, _, query, _ = match(logits, boxes, targets, **WEIGHTS)
    assert set(query.tolist()) <= {3, 4, 5}


def test_the_class_cost_of_sure_and_right_is_lower_than_of_sure_and_wrong():
    box = torch.full((3, 4), 0.5)
    logits = torch.tensor([[6.0, -6.0], [-6.0, 6.0], [0.0, 0.0]])
    cost = matching_cost(logits, box, torch.tensor([0]), box[:1], **WEIGHTS)[:, 0]
    assert cost[0] < cost[2] < cost[1]


def test_costs_are_float32_whatever_the_model_runs_in():
    logits, boxes, targets = random_batch([4], layers=1)
    rough_logits, rough_boxes = logits.bfloat16(), boxes.bfloat16()
    a = match(rough_logits, rough_boxes, targets, **WEIGHTS)
    b = match(rough_logits.float(), rough_boxes.float(), targets, **WEIGHTS)
    assert all(x.equal(y) for x, y in zip(a, b, strict=True))
