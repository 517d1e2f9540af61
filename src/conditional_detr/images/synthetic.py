"""Synthetic images, to measure speed and to compare an exported model with its original without a data set."""

import numpy as np
from PIL import Image

NUM_IMAGES, IMAGE_HW = 8, (480, 640)


def synthetic_images() -> list[np.ndarray]:
    """Return images of random colour patches with noise. They are the same on every call."""
    random = np.random.default_rng(0)
    images: list[np.ndarray] = []
    for i in range(NUM_IMAGES):
        coarse = random.integers(0, 256, (2 + i, 3 + i, 3), dtype=np.uint8)
        enlarged = np.asarray(Image.fromarray(coarse).resize(IMAGE_HW[::-1], Image.Resampling.BICUBIC), dtype=np.int16)
        images.append((enlarged + random.integers(-20, 21, enlarged.shape)).clip(0, 255).astype(np.uint8))
    return images
