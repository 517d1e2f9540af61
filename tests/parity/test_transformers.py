"""The models equal transformers': with padding, with gradients, in every released size.

Tolerance: with these weights, whose attention is peaked on purpose, float32 itself is 3e-5 to 1e-4 from float64. In gradients
the number of threads alone makes a relative difference of 2e-3, and both sides are 1e-3 to 3e-3 from float64.
"""

import pytest
import torch
from oracle import KINDS, build_oracle, ours_like, random_images, state_of

from conditional_detr.weights.key_mapping import KeyTable

LOGITS, BOXES, GRADIENTS = 3e-4, 5e-5, 5e-3
SIZES = {
    "small": {"encoder_layers": 2, "decoder_layers": 3},
    "r50": {},
    "r101": {"backbone": "resnet101"},
    "dc5-r50": {"dilation": True},
    "dc5-r101": {"backbone": "resnet101", "dilation": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_logits_and_boxes_of_a_padded_batch(kind: str, size: str):
    oracle = build_oracle(kind, **SIZES[size])
    ours = ours_like(oracle, dilation="dc5" in size)
    images, is_padding = random_images() if "dc5" not in size else random_images(128, 160)
    with torch.no_grad():
        theirs, output = oracle(images, (~is_padding).long()), ours(images, is_padding)
    assert theirs.logits.std(1).mean() > 0.02, "queries that all say the same would hide every fault"
    differences = {
        "logits": float((output.pred_logits - theirs.logits).abs().max()),
        "boxes": float((output.pred_boxes - theirs.pred_boxes).abs().max()),
    }
    print(f"{kind} {size}: largest difference {differences}")
    assert differences["logits"] <= LOGITS
    assert differences["boxes"] <= BOXES


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_every_parameter(kind: str):
    oracle = build_oracle(kind, encoder_layers=1, decoder_layers=3)
    ours = ours_like(oracle)
    images, is_padding = random_images(128, 160)
    theirs = oracle(images, (~is_padding).long())
    (theirs.logits.square().sum() + theirs.pred_boxes.square().sum()).backward()
    output = ours(images, is_padding)
    (output.pred_logits.square().sum() + output.pred_boxes.square().sum()).backward()
    gradients = state_of(oracle, {key: p.grad for key, p in oracle.named_parameters() if p.grad is not None})
    mine = {key: p.grad for key, p in ours.named_parameters() if p.grad is not None}
    assert len(mine) == len([p for p in ours.parameters() if p.requires_grad])
    reference = KeyTable("huggingface", ours.config.cross_attention).from_foreign(gradients, mine)
    scale = max(float(gradient.norm()) for gradient in reference.values())
    for key, gradient in mine.items():
        # Keys' biases do nothing behind a softmax: where the true gradient is zero both sides have noise.
        assert (gradient - reference[key]).norm() <= GRADIENTS * reference[key].norm() + 1e-6 * scale, key
