"""Single loss terms equal transformers' (whose total weighs the class term by 1 where the paper's code has 2)."""

import pytest
import torch
from oracle import build_oracle, ours_like, random_images

from conditional_detr.training.objective.criterion import SetCriterion


@pytest.mark.parametrize(("kind", "classification"), [("conditional", "focal"), ("detr", "softmax")])
def test_terms_of_the_last_layer(kind: str, classification: str):
    oracle = build_oracle(kind, encoder_layers=1, decoder_layers=2)
    ours = ours_like(oracle)
    images, is_padding = random_images(128, 160)
    generator = torch.Generator().manual_seed(0)
    targets = [
        {
            "labels": torch.randint(7, (n,), generator=generator),
            "boxes": torch.rand(n, 4, generator=generator) * 0.3 + 0.3,
        }
        for n in (3, 5)
    ]
    labels = [{"class_labels": t["labels"], "boxes": t["boxes"]} for t in targets]
    with torch.no_grad():
        theirs = oracle(images, (~is_padding).long(), labels=labels)
        losses = SetCriterion(7, classification)(ours(images, is_padding), targets)
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        torch.testing.assert_close(losses[name], theirs.loss_dict[name], atol=1e-4, rtol=1e-4)
    if kind == "detr":  # its weights are right in transformers
        torch.testing.assert_close(losses["loss"], theirs.loss, atol=1e-4, rtol=1e-4)
