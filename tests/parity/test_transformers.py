"""The model equals transformers' Conditional DETR: with padding, with gradients, in the small and a released size.

Tolerance: float32 itself is about 4e-5 from float64 for these weights, whose attention is peaked on purpose. In gradients
the number of threads alone makes a relative difference of 2e-3, and both sides are 1e-3 to 3e-3 from float64.
"""

import pytest
import torch
from oracle import build_oracle, ours_like, pictures

LOGITS, BOXES, GRADIENTS = 2e-4, 5e-5, 5e-3
SIZES = {
    "small": ("conditional-detr-r50", {"encoder_layers": 2, "decoder_layers": 3}),
    "r50": ("conditional-detr-r50", {}),
}


@pytest.mark.parametrize("size", SIZES)
def test_logits_and_boxes_of_a_padded_batch(size: str):
    name, parts = SIZES[size]
    oracle = build_oracle(7, **parts)
    ours = ours_like(oracle, name, **parts)
    images, is_padding = pictures()
    with torch.no_grad():
        theirs, output = oracle(images, (~is_padding).long()), ours(images, is_padding)
    spread = theirs.logits.std(1).mean()
    assert spread > 0.02, "queries that all say the same would hide every fault"
    differences = {
        "logits": float((output.pred_logits - theirs.logits).abs().max()),
        "boxes": float((output.pred_boxes - theirs.pred_boxes).abs().max()),
    }
    print(f"{size}: largest difference {differences}")
    assert differences["logits"] <= LOGITS
    assert differences["boxes"] <= BOXES


def test_dc5_dilates_the_last_stage():
    parts = {"encoder_layers": 1, "decoder_layers": 2}
    oracle = build_oracle(5, dilation=True, **parts)
    ours = ours_like(oracle, "conditional-detr-dc5-r50", **parts)
    images, is_padding = pictures(128, 160)
    with torch.no_grad():
        theirs, output = oracle(images, (~is_padding).long()), ours(images, is_padding)
    assert float((output.pred_logits - theirs.logits).abs().max()) <= LOGITS


def test_gradients():
    parts = {"encoder_layers": 1, "decoder_layers": 3}
    oracle = build_oracle(5, **parts)
    ours = ours_like(oracle, "conditional-detr-r50", **parts)
    images, is_padding = pictures(128, 160)
    theirs = oracle(images, (~is_padding).long())
    (theirs.logits.square().sum() + theirs.pred_boxes.square().sum()).backward()
    output = ours(images, is_padding)
    (output.pred_logits.square().sum() + output.pred_boxes.square().sum()).backward()
    expected = dict(oracle.named_parameters())
    for ours_name, their_name in (
        ("decoder.layers.0.cross_attention.q_position.weight", "model.decoder.layers.0.encoder_attn.q_pos_proj.weight"),
        (
            "decoder.layers.2.cross_attention.q_spatial.weight",
            "model.decoder.layers.2.encoder_attn.q_pos_sine_proj.weight",
        ),
        ("decoder.spatial_query.lambda_q.mlp.layers.0.weight", "model.decoder.query_scale.layers.0.weight"),
        ("object_query", "model.query_position_embeddings.weight"),
        ("input_projection.weight", "model.input_projection.weight"),
        ("backbone.body.layer4.2.conv3.weight", "model.backbone.model.layer4.2.conv3.weight"),
    ):
        gradient, reference = ours.get_parameter(ours_name).grad, expected[their_name].grad
        assert (gradient - reference).norm() <= GRADIENTS * reference.norm(), ours_name
