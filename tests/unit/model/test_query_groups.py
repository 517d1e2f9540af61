"""Groups of queries beside each other (Group DETR): they share everything and do not see each other."""

import pytest
import torch

from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.attention.kernels import attend_within_groups
from conditional_detr.model.detr import DetectionOutput
from models import perturbed, small

OWN = 7
VARIANTS = [
    ("conditional-detr-tiny", {}),
    ("conditional-detr-tiny", {"reference_points": "encoder"}),
    ("conditional-detr-tiny", {"spatial_query": "intermediate", "lambda_q": "full"}),
    ("detr-tiny", {}),
]
every_variant = pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=["as-it-is", "encoder", "intermediate", "detr"])


def setting(name: str, variant: dict) -> tuple[DetectionModel, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A model, a batch of two with padding, and the object queries of two more groups."""
    model = perturbed(small(name, hidden_dim=32, num_queries=OWN, **variant))
    images, is_padding = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    is_padding[1, :, 64:] = True
    return model, (images, is_padding), torch.randn(2, OWN, 32)


def of_group(output: DetectionOutput, group: int) -> list[torch.Tensor]:
    part = slice(group * OWN, (group + 1) * OWN)
    return [layers[:, :, part] for layers in output.all_layers().values()]


@every_variant
@torch.no_grad()
def test_a_models_own_queries_find_what_they_find_without_groups(name: str, variant: dict):
    model, batch, extra = setting(name, variant)
    alone, beside = model(*batch, aux=True), model(*batch, aux=True, extra_queries=extra)
    assert beside.pred_boxes.shape == (2, 3 * OWN, 4)
    for found, expected in zip(of_group(beside, 0), of_group(alone, 0), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@every_variant
@torch.no_grad()
def test_a_group_finds_what_a_model_with_its_queries_would_find(name: str, variant: dict):
    model, batch, extra = setting(name, variant)
    beside = model(*batch, aux=True, extra_queries=extra)
    for group, queries in enumerate(extra, 1):
        model.object_query.copy_(queries)
        for found, expected in zip(of_group(beside, group), of_group(model(*batch, aux=True), 0), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@every_variant
@torch.no_grad()
def test_a_query_does_not_react_to_another_groups_queries(name: str, variant: dict):
    model, batch, extra = setting(name, variant)
    changed = extra.clone()
    changed[0, 3] = torch.randn(32)
    before, after = (model(*batch, aux=True, extra_queries=queries) for queries in (extra, changed))
    for group in (0, 2):
        for a, b in zip(of_group(before, group), of_group(after, group), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    logits_before, logits_after = of_group(before, 1)[0], of_group(after, 1)[0]
    others = [i for i in range(OWN) if i != 3]
    assert (logits_before[-1][:, 3] - logits_after[-1][:, 3]).abs().max() > 1e-3
    assert (logits_before[-1][:, others] - logits_after[-1][:, others]).abs().max() > 1e-4  # it is seen within its group


def test_gradients_of_a_group_reach_its_own_queries_only():
    model, batch, extra = setting("conditional-detr-tiny", {})
    extra.requires_grad_()
    output = model(*batch, extra_queries=extra)
    sum(x[-1].square().sum() for x in of_group(output, 1)).backward()
    assert extra.grad[0].abs().sum(-1).all()
    assert not extra.grad[1].any()
    assert model.object_query.grad is None or not model.object_query.grad.any()


def test_groups_attend_as_if_all_pairs_of_two_groups_were_blocked():
    projected = tuple(torch.randn(2, 9, 16) for _ in range(3))
    group = torch.arange(9) // 3
    expected = attend_within_groups(projected, 4, blocked=group[:, None] != group)
    torch.testing.assert_close(attend_within_groups(projected, 4, groups=3), expected, atol=1e-5, rtol=0)
