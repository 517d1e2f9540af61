"""An image reaches the network as transformers' image processor would bring it."""

import numpy as np
import torch
from transformers import ConditionalDetrImageProcessor

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.images.decoding import decode
from conditional_detr.images.preprocessing import Preprocessor


def test_size_and_values():
    coarse = np.random.default_rng(0).integers(0, 255, (12, 16, 3))
    image = np.kron(coarse, np.ones((10, 10, 1))).astype(np.uint8)
    theirs = ConditionalDetrImageProcessor()(images=image, return_tensors="pt")["pixel_values"][0]
    ours = Preprocessor(PreprocessorConfig())(decode(image))
    assert ours.shape == theirs.shape == (3, 800, 1066)
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0)  # one step of 255 is 0.017 after normalising
