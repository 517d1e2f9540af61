"""What is explained is what the model attends with: transformers' own attention weights are the authority."""

import numpy as np
import pytest
import torch
from oracle import build_oracle, ours_like
from PIL import Image

from conditional_detr.explaining.maps import explain
from conditional_detr.images.decoding import decode
from conditional_detr.images.preprocessing import Preprocessor


@pytest.mark.parametrize("kind", ["conditional", "detr"])
def test_combined_maps_are_transformers_cross_attention(kind: str):
    oracle = build_oracle(kind, encoder_layers=1, decoder_layers=3)
    oracle.set_attn_implementation("eager")
    ours = ours_like(oracle)
    ours.preprocessor = ours.preprocessor.model_copy(update={"imgsz": 128, "max_size": 256})
    image = Image.fromarray(np.kron(np.random.default_rng(0).integers(0, 255, (4, 6, 3)), np.ones((32, 32, 1))).astype("uint8"))
    explanations = explain(ours, image, conf=0, device="cpu")
    image = Preprocessor(ours.preprocessor)(decode(image))[None]
    with torch.no_grad():
        theirs = oracle(image, output_attentions=True).cross_attentions
    assert len(theirs) == 3
    for e in explanations[:20]:
        expected = torch.stack([layer[0, :, e.query] for layer in theirs]).view(e.combined.shape)
        torch.testing.assert_close(torch.from_numpy(e.combined), expected, atol=1e-4, rtol=1e-3)
