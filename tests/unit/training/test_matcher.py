import math
from itertools import permutations

import numpy as np
import pytest
import torch

from conditional_detr.training.objective.matcher import (
    assign,
    focal_class_cost,
    giou_cost,
    hungarian_match,
    l1_cost,
    softmax_class_cost,
)


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


def cost(logits: torch.Tensor, boxes: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
    """The paper's, of one image."""
    of_class, distance = focal_class_cost(logits, target["labels"]), l1_cost(boxes, target["boxes"])
    return 2 * of_class + 5 * distance + 2 * giou_cost(boxes, target["boxes"])


def match(logits: torch.Tensor, boxes: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    def of_image(image: int) -> torch.Tensor:
        return cost(logits[:, image], boxes[:, image], targets[image])

    return hungarian_match(of_image, [len(t["labels"]) for t in targets], logits.device)


def test_the_assignment_is_the_cheapest_of_all():
    cost = np.random.default_rng(0).random((5, 3))
    query, target = assign(cost)
    cheapest = min(sum(cost[q, m] for m, q in enumerate(chosen)) for chosen in permutations(range(5), 3))
    assert cost[query, target].sum() == pytest.approx(cheapest)


def test_every_object_of_every_layer_is_matched_once_within_its_own_image():
    logits, boxes, targets = random_batch([3, 0, 2])
    layer, image, query, target = match(logits, boxes, targets)
    owner = torch.tensor([0, 0, 0, 2, 2])
    assert image.equal(owner[target])
    for each in range(2):
        assert sorted(target[layer == each].tolist()) == [0, 1, 2, 3, 4]
        pairs = list(zip(image[layer == each].tolist(), query[layer == each].tolist(), strict=True))
        assert len(set(pairs)) == len(pairs)


def test_each_block_is_matched_as_if_it_were_alone():
    logits, boxes, targets = random_batch([3, 1, 2])
    layer, image, query, _ = match(logits, boxes, targets)
    for each in range(2):
        for b in range(3):
            block = cost(logits[each, b], boxes[each, b], targets[b])
            assert query[(layer == each) & (image == b)].tolist() == assign(block.numpy())[0].tolist()


def test_more_objects_than_queries_match_every_query():
    logits, boxes, targets = random_batch([9], layers=1)
    _, _, query, target = match(logits, boxes, targets)
    assert sorted(query.tolist()) == list(range(6))
    assert len(set(target.tolist())) == 6


def test_a_batch_without_objects_matches_nothing():
    logits, boxes, targets = random_batch([0, 0])
    assert [len(part) for part in match(logits, boxes, targets)] == [0, 0, 0, 0]


def test_a_query_that_is_not_finite_is_matched_last():
    logits, boxes, targets = random_batch([2], layers=1)
    boxes[0, 0, :3] = torch.nan
    _, _, query, _ = match(logits, boxes, targets)
    assert set(query.tolist()) <= {3, 4, 5}


def test_an_image_without_objects_is_not_asked_for_its_costs():
    logits, boxes, targets = random_batch([0, 2])
    asked = []

    def of_image(image: int) -> torch.Tensor:
        asked.append(image)
        return cost(logits[:, image], boxes[:, image], targets[image])

    _, image, _, target = hungarian_match(of_image, [0, 2], logits.device)
    assert asked == [1]
    assert image.tolist() == [1] * 4
    assert sorted(target.tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize("class_cost", [focal_class_cost, softmax_class_cost])
def test_the_class_cost_of_sure_and_right_is_lower_than_of_sure_and_wrong(class_cost):
    right, wrong, unsure = class_cost(torch.tensor([[6.0, -6.0], [-6.0, 6.0], [0.0, 0.0]]), torch.tensor([0]))[:, 0]
    assert right < unsure < wrong


def test_the_softmax_cost_is_minus_the_probability_among_all_columns():
    logits = torch.tensor([[0.0, 0.0, math.log(2)]])
    torch.testing.assert_close(softmax_class_cost(logits, torch.tensor([0, 2])), torch.tensor([[-0.25, -0.5]]))
