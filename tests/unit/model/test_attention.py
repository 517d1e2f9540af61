import math

import pytest
import torch
from torch import Tensor

from conditional_detr.model.attention import CROSS_ATTENTION
from conditional_detr.model.attention.conditional import ConditionalCrossAttention
from conditional_detr.model.attention.kernels import attend, blocked_keys, split_heads
from conditional_detr.model.memory import Memory
from conditional_detr.model.queries import Queries
from models import memory_like

CROSS = [(kind, which) for kind in CROSS_ATTENTION for which in ("first_cross_attention", "cross_attention")]
every_dense_cross_attention = pytest.mark.parametrize(("kind", "which"), [pair for pair in CROSS if pair[0] != "deformable"])


def plain_attention(query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None) -> Tensor:
    """The formula, written out: what the fused path must equal."""
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if blocked is not None:
        logits = logits.masked_fill(blocked, -torch.inf)
    return (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)


def blocked_pairs(kind: str) -> Tensor | None:
    """Of 5 queries and 9 keys: keys of the second image's padding, or pairs in the same for all images."""
    if kind == "padding":
        return blocked_keys(torch.tensor([[False] * 9, [False] * 6 + [True] * 3]))
    return (torch.arange(5)[:, None] + torch.arange(9)) % 3 == 0 if kind == "pairs" else None


@pytest.mark.parametrize("value_width", [8, 16])
@pytest.mark.parametrize("blocked", ["nothing", "padding", "pairs"])
def test_fused_attention_equals_the_plain_one_with_its_gradients(value_width: int, blocked: str):
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 5, 16, requires_grad=True), torch.randn(2, 4, 9, 16, requires_grad=True)
    value = torch.randn(2, 4, 9, value_width, requires_grad=True)
    results = []
    for function in (attend, plain_attention):
        out = function(query, key, value, blocked_pairs(blocked))
        results.append([out, *torch.autograd.grad(out.square().sum(), (query, key, value))])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_padded_keys_have_no_say():
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    blocked = blocked_keys(torch.tensor([[False, False, False, False, True, True]]))
    expected = attend(query, key[:, :, :4], value[:, :, :4])
    torch.testing.assert_close(attend(query, key, value, blocked), expected)


def queries_and_memory() -> tuple[Queries, Memory]:
    """Five queries of two images and nine cells, the last three of them padding."""
    content, position, spatial = torch.randn(2, 5, 256), torch.randn(1, 5, 256), torch.randn(2, 5, 256)
    queries = Queries.start(position, torch.rand(1, 5, 2))._replace(content=content, spatial=spatial)
    is_padding = torch.arange(9).expand(2, 9) >= 6
    return queries, memory_like(torch.randn(2, 9, 256), torch.randn(1, 9, 256), is_padding=is_padding)


def test_trap_content_and_space_are_joined_head_by_head_and_their_products_add_up():
    attention = ConditionalCrossAttention(256, 8, 0.0).eval()
    queries, memory = queries_and_memory()
    with torch.no_grad():
        c_q, c_k, p_q, p_k = attention.project(queries, memory)
        assert c_q.shape == p_q.shape == (2, 8, 5, 32)
        value = split_heads(attention.v(memory.tokens), 8)

        def attended(logits: Tensor) -> Tensor:
            weights = (logits / math.sqrt(64)).masked_fill(blocked_keys(memory.is_padding), -torch.inf).softmax(-1)
            return attention.out((weights @ value).transpose(1, 2).flatten(2))

        found = attention(queries, memory)
        apart = c_q @ c_k.transpose(-1, -2) + p_q @ p_k.transpose(-1, -2)
        torch.testing.assert_close(found, attended(apart), atol=1e-4, rtol=1e-4)
        whole = [torch.cat([x.transpose(1, 2).flatten(2) for x in pair], -1) for pair in ((c_q, p_q), (c_k, p_k))]
        wrong = split_heads(whole[0], 8) @ split_heads(whole[1], 8).transpose(-1, -2)
        assert (found - attended(wrong)).abs().max() > 0.01


@every_dense_cross_attention
def test_the_weights_that_are_explained_are_those_that_attention_uses(kind: str, which: str):
    attention = getattr(CROSS_ATTENTION[kind], which)(256, 8, 0.0).eval()
    queries, memory = queries_and_memory()
    if kind == "box_conditional":
        queries = queries.with_reference(torch.rand(1, 5, 4))
    chosen = torch.tensor([3, 1])
    with torch.no_grad():
        shown = attention.explain(queries, memory, chosen)
        assert all(x.shape == (2, 8, 9) and x[..., 6:].eq(0).all() for x in shown.values())
        value = split_heads(attention.v(memory.tokens), 8)[0]
        used = attention.out(torch.einsum("khn,hnd->khd", shown["combined"], value).flatten(1))
        torch.testing.assert_close(used, attention(queries, memory)[0, chosen], atol=1e-5, rtol=1e-4)
    product = shown["content"] * shown["spatial"]
    torch.testing.assert_close(product / product.sum(-1, keepdim=True), shown["combined"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", CROSS_ATTENTION)
def test_queries_that_are_blocked_from_each_other_attend_as_if_the_others_were_not_there(kind: str):
    attention = CROSS_ATTENTION[kind].self_attention(256, 8, 0.0).eval()
    queries, _ = queries_and_memory()
    owner = torch.tensor([0, 0, 1, 1, 1])
    few = queries._replace(content=queries.content[:, :2], position=queries.position[:, :2])
    with torch.no_grad():
        apart = attention(queries._replace(blocked=owner[:, None] != owner))
        torch.testing.assert_close(apart[:, :2], attention(few), atol=1e-5, rtol=1e-4)
        assert (apart - attention(queries)).abs().max() > 1e-3


def test_attention_on_a_processor_computes_in_float32_under_autocast():
    """PyTorch's kernel for 16 bits takes twice as long there with narrow heads."""
    query, key = torch.randn(2, 4, 5, 16).bfloat16(), torch.randn(2, 4, 9, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        attended = attend(query, key, key)
    torch.testing.assert_close(attended, attend(query.float(), key.float(), key.float()))
