import math

import pytest
import torch
from torch import Tensor

from conditional_detr.model.attention.kernels import Parts, add, attend, attention_weights, concatenate, split_heads


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


@pytest.fixture
def parts() -> Parts:
    return Parts(*(split_heads(torch.randn(1, 3, 256), 8) for _ in range(4)))


def test_trap_parts_are_joined_head_by_head_and_their_products_add_up(parts):
    query, key = concatenate(parts)
    assert query.shape == (1, 8, 3, 64)
    apart = sum(
        q @ k.transpose(-1, -2) for q, k in ((parts.content_query, parts.content_key), (parts.spatial_query, parts.spatial_key))
    )
    torch.testing.assert_close(query @ key.transpose(-1, -2) / 8, apart / math.sqrt(64), atol=1e-4, rtol=1e-4)
    whole = [torch.cat([x.transpose(1, 2).flatten(2) for x in pair], -1) for pair in (parts[::2], parts[1::2])]
    wrong = split_heads(whole[0], 8) @ split_heads(whole[1], 8).transpose(-1, -2)
    assert not torch.allclose(wrong, query @ key.transpose(-1, -2), atol=0.1)


@pytest.mark.parametrize("join", [concatenate, add])
def test_the_weights_that_are_shown_are_those_that_attention_uses(parts, join):
    if join is add:  # one query is compared with both
        parts = parts._replace(spatial_query=parts.content_query)
    query, key = join(parts)
    value, is_padding = torch.randn(1, 8, 3, 32), torch.tensor([[False, False, True]])
    width = key.shape[-1]
    shown = attention_weights(query, key, is_padding, width)
    used = attend(query, key, value, is_padding)
    torch.testing.assert_close((shown @ value).transpose(1, 2).flatten(2), used, atol=1e-5, rtol=1e-4)
    assert shown[..., 2].eq(0).all()
    content = attention_weights(parts.content_query, parts.content_key, is_padding, width)
    spatial = attention_weights(parts.spatial_query, parts.spatial_key, is_padding, width)
    product = content * spatial
    torch.testing.assert_close(product / product.sum(-1, keepdim=True), shown, atol=1e-5, rtol=1e-4)


def test_attention_on_a_processor_computes_in_float32_under_autocast():
    """PyTorch's kernel for 16 bits takes twice as long there with narrow heads."""
    query, key = torch.randn(2, 4, 5, 16).bfloat16(), torch.randn(2, 4, 9, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        attended = attend(query, key, key)
    torch.testing.assert_close(attended, attend(query.float(), key.float(), key.float()))
