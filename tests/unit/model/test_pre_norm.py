"""Layers with the norm in front (UP-DETR), against PyTorch's own."""

import pytest
import torch
from torch import nn

from conditional_detr.config.presets import PRESETS
from conditional_detr.factory.create import create_model
from conditional_detr.model.attention.dense import AdditiveCrossAttention, AdditiveSelfAttention, DenseAttention
from conditional_detr.model.decoder import DECODER_LAYERS
from conditional_detr.model.encoder import ENCODER_LAYERS
from conditional_detr.model.queries import Queries
from models import memory_like, perturbed

DIM, HEADS, HIDDEN = 32, 4, 48


def joint(theirs: nn.MultiheadAttention, ours: nn.Module) -> None:
    """Give PyTorch's attention the projections of ours."""
    theirs.in_proj_weight.copy_(torch.cat([each.weight for each in (ours.q, ours.k, ours.v)]))
    theirs.in_proj_bias.copy_(torch.cat([each.bias for each in (ours.q, ours.k, ours.v)]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


@pytest.mark.parametrize("norm", ENCODER_LAYERS)
@torch.no_grad()
def test_an_encoder_layer_is_pytorchs(norm: str):
    ours = perturbed(ENCODER_LAYERS[norm](DenseAttention(DIM, HEADS, 0.0), DIM, HIDDEN, 0.0)).eval()
    theirs = nn.TransformerEncoderLayer(DIM, HEADS, HIDDEN, 0.0, batch_first=True, norm_first=norm == "pre").eval()
    joint(theirs.self_attn, ours.self_attention)
    for name in ("linear1", "linear2"):
        getattr(theirs, name).load_state_dict(getattr(ours.feedforward, name).state_dict())
    theirs.norm1.load_state_dict(ours.norm.state_dict())
    theirs.norm2.load_state_dict(ours.feedforward.norm.state_dict())
    tokens = torch.randn(2, 6, DIM)
    found = ours(memory_like(tokens, torch.zeros(1, 6, DIM))).tokens
    torch.testing.assert_close(found, theirs(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", DECODER_LAYERS)
@torch.no_grad()
def test_a_decoder_layer_is_pytorchs(norm: str):
    attention = AdditiveSelfAttention(DIM, HEADS, 0.0), AdditiveCrossAttention(DIM, HEADS, 0.0)
    ours = perturbed(DECODER_LAYERS[norm](*attention, DIM, HIDDEN, 0.0)).eval()
    theirs = nn.TransformerDecoderLayer(DIM, HEADS, HIDDEN, 0.0, batch_first=True, norm_first=norm == "pre").eval()
    joint(theirs.self_attn, ours.self_attention)
    joint(theirs.multihead_attn, ours.cross_attention)
    for name in ("linear1", "linear2"):
        getattr(theirs, name).load_state_dict(getattr(ours.feedforward, name).state_dict())
    for name, norm_of in (("norm1", ours.norm1), ("norm2", ours.norm2), ("norm3", ours.feedforward.norm)):
        getattr(theirs, name).load_state_dict(norm_of.state_dict())
    content, tokens = torch.randn(2, 5, DIM), torch.randn(2, 6, DIM)
    queries = Queries.start(torch.zeros(2, 5, DIM), torch.rand(2, 5, 2), content)
    found = ours(queries, memory_like(tokens, torch.zeros(1, 6, DIM)), lambda queries, content: None).content
    torch.testing.assert_close(found, theirs(content, tokens), atol=1e-5, rtol=1e-5)


def test_the_encoder_ends_with_a_norm_and_counts_are_the_released_codes():
    model = create_model("up-detr-r50", 91, pretrained_backbone=False)
    assert sum(p.numel() for p in model.parameters()) == 41_525_280
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 41_302_880
    assert isinstance(model.encoder.norm, nn.LayerNorm)


def test_detr_with_the_norm_in_front_is_the_same_network():
    assert PRESETS["up-detr-r50"].model == create_model("detr-r50", 91, pretrained_backbone=False, norm="pre").config


def test_the_two_kinds_of_layers_differ():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 96)
    models = [create_model("detr-tiny", 3, pretrained_backbone=False, norm=norm).eval() for norm in ("post", "pre")]
    state = models[0].state_dict()
    models[1].load_state_dict(state, strict=False)
    with torch.no_grad():
        first, other = (model(images).pred_logits for model in models)
    assert (first - other).abs().max() > 0.01
