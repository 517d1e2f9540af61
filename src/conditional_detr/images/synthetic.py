"""Images for where there are none: to measure speed, and to compare an export with its model."""

import numpy as np
from PIL import Image

NUM_IMAGES, IMAGE_HW = 8, (480, 640)


def synthetic_images() -> list[np.ndarray]:
    """Patches of colour under noise, the same at each call."""
    random = np.random.default_rng(0)
    images: list[np.ndarray] = []
    for i in range(NUM_IMAGES):
        coarse = random.integers(0, 256, (2 + i, 3 + i, 3), dtype=np.uint8)
        enlarged = np.asarray(Image.fromarray(coarse).resize(IMAGE_HW[::-1], Image.Resampling.BICUBIC), dtype=np.int16)
        images.append((enlarged + random.integers(-20, 21, enlarged.shape)).clip(0, 255).astype(np.uint8))
    return images
