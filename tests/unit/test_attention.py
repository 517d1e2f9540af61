import math

import pytest
import torch
from torch import Tensor

from conditional_detr.model.attention import attend, concat_per_head, split_heads


def plain_attention(query: Tensor, key: Tensor, value: Tensor, is_padding: Tensor | None) -> Tensor:
    """The formula, written out: what the fused path must equal."""
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if is_padding is not None:
        logits = logits.masked_fill(is_padding[:, None, None, :], -torch.inf)
    return (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("value_width", [8, 16])
@pytest.mark.parametrize("padded", [False, True])
def test_fused_attention_equals_the_plain_one_with_its_gradients(value_width: int, padded: bool):
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 5, 16, requires_grad=True), torch.randn(2, 4, 9, 16, requires_grad=True)
    value = torch.randn(2, 4, 9, value_width, requires_grad=True)
    is_padding = torch.zeros(2, 9, dtype=torch.bool)
    is_padding[1, 6:] = True
    mask = is_padding if padded else None
    results = []
    for function in (attend, plain_attention):
        out = function(query, key, value, mask)
        results.append([out, *torch.autograd.grad(out.square().sum(), (query, key, value))])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_padded_keys_have_no_say():
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    is_padding = torch.tensor([[False, False, False, False, True, True]])
    expected = attend(query, key[:, :, :4], value[:, :, :4])
    torch.testing.assert_close(attend(query, key, value, is_padding), expected)


def test_trap_parts_are_joined_head_by_head_and_their_products_add_up():
    torch.manual_seed(0)
    heads, width = 8, 256
    content_q, spatial_q, content_k, spatial_k = (torch.randn(1, 3, width) for _ in range(4))
    joined = concat_per_head(content_q, spatial_q, heads) @ concat_per_head(content_k, spatial_k, heads).transpose(-1, -2)
    apart = sum(
        split_heads(q, heads) @ split_heads(k, heads).transpose(-1, -2)
        for q, k in ((content_q, content_k), (spatial_q, spatial_k))
    )
    torch.testing.assert_close(joined / 8, apart / math.sqrt(64), atol=1e-4, rtol=1e-4)
    wrong = split_heads(torch.cat([content_q, spatial_q], -1), heads)
    assert not torch.allclose(wrong, concat_per_head(content_q, spatial_q, heads))
