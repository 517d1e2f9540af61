"""Images that grow over a run: small ones are cheap, and enough to learn from what objects are and roughly where.

Source: the idea is that of progressive resizing, as in EfficientNetV2 (Tan and Le, ICML 2021), section 4.
"""

from torch import Tensor
from torch.nn import functional as F

from conditional_detr.config.recipes import RecipeConfig

GROWN_AT = 0.8  # of a run: the rest of it has images of their own size


def size_factor(share_done: float, recipe: RecipeConfig) -> float:
    """What both sides of an image are multiplied by: from `progressive_resize_from`, in a straight line, up to 1."""
    return min(1.0, recipe.progressive_resize_from + (1 - recipe.progressive_resize_from) * share_done / GROWN_AT)


def mean_cost(begin: float, end: float, recipe: RecipeConfig) -> float:
    """Of an image between two shares of a run, in what one of its own size costs: sizes squared."""
    shares = [begin + (end - begin) * (i + 0.5) / 20 for i in range(20)]
    return sum(size_factor(share, recipe) ** 2 for share in shares) / len(shares)


def resized(images: Tensor, padding_mask: Tensor | None, factor: float, multiple: int = 1) -> tuple[Tensor, Tensor | None]:
    """A batch with sides times a factor, to whole pixels. Boxes in [0, 1] of their image stay as they are.

    Parameters
    ----------
    images : float32 [B, 3, H, W]
    padding_mask : bool [B, H, W], True = padding; or None
    factor : ≤ 1
    multiple : px that the sides are multiples of
    """
    size = [max(1, round(factor * side / multiple)) * multiple for side in images.shape[-2:]]
    if size == list(images.shape[-2:]):
        return images, padding_mask
    images = F.interpolate(images, size, mode="bilinear", antialias=True)
    if padding_mask is not None:
        padding_mask = F.interpolate(padding_mask[:, None].float(), size, mode="nearest")[:, 0] > 0  # the first pixel is kept
    return images, padding_mask
