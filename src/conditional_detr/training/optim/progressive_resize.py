"""Progressive resizing: training starts with small images and increases their size over the run.

Small images are cheap, and they are enough to learn what objects look like and roughly where they are.

Source: the idea of progressive resizing, as in EfficientNetV2 (Tan and Le, ICML 2021), section 4.
"""

from torch import Tensor
from torch.nn import functional as F

from conditional_detr.config.recipes import RecipeConfig

FULL_SIZE_FROM = 0.8  # fraction of the run after which images have their full size


def size_factor(progress_fraction: float, recipe: RecipeConfig) -> float:
    """Factor for both sides of an image. It rises linearly from `progressive_resize_from` to 1."""
    return min(1.0, recipe.progressive_resize_from + (1 - recipe.progressive_resize_from) * progress_fraction / FULL_SIZE_FROM)


def mean_cost(begin: float, end: float, recipe: RecipeConfig) -> float:
    """Mean cost of an image between two fractions of the run, relative to a full-size image.

    The cost is assumed to be proportional to the number of pixels.
    """
    shares = [begin + (end - begin) * (i + 0.5) / 20 for i in range(20)]
    return sum(size_factor(share, recipe) ** 2 for share in shares) / len(shares)


def resized(images: Tensor, padding_mask: Tensor | None, factor: float, multiple: int = 1) -> tuple[Tensor, Tensor | None]:
    """Resize a batch by a factor. Relative boxes, in [0, 1] of their image, need no change.

    Parameters
    ----------
    images : float32 [B, 3, H, W]
    padding_mask : bool [B, H, W], True = padding; or None
    factor : at most 1
    multiple : the new height and width are rounded to multiples of this, px
    """
    size = [max(1, round(factor * side / multiple)) * multiple for side in images.shape[-2:]]
    if size == list(images.shape[-2:]):
        return images, padding_mask
    images = F.interpolate(images, size, mode="bilinear", antialias=True)
    if padding_mask is not None:  # "nearest" keeps the first row and column, so a mask never becomes all padding
        padding_mask = F.interpolate(padding_mask[:, None].float(), size, mode="nearest")[:, 0] > 0
    return images, padding_mask
