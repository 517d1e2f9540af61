"""The paper's augmentation on tv_tensors, scaled to the size that the model is made for."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import LONGEST_PER_SHORTEST
from conditional_detr.images.preprocessing import resized_hw

SCALE_STEPS = 11  # 480, 512, …, 800
CROP_FROM = (400, 500, 600)  # the shorter side that a crop's sides are measured against
CROP_SIDES = (384, 600)


class Augmentation:
    """Flip, crop, resize and colour: uint8 image and boxes in, the same out.

    With the paper's recipe: a horizontal flip at 0.5; then at 0.5 a crop with sides of 384 to 600 px, as if the shorter side
    had 400, 500 or 600; then a resize of the shorter side to 480…800 in steps of 32, scaled by `imgsz` / 800. (The released
    code resizes to 400, 500 or 600 first: the same crops, but blurred where the file has more pixels.)

    Source: DETR, appendix A.4 and released code. Colour: engineering, off in the paper's recipe.
    """

    def __init__(self, recipe: RecipeConfig, imgsz: int) -> None:
        self.recipe = recipe
        low, high = recipe.scales
        self.sizes = [round(imgsz * (low + (high - low) * i / (SCALE_STEPS - 1))) for i in range(SCALE_STEPS)]

    def __call__(self, rgb: Tensor, boxes_xyxy: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Random draws come from torch's global generator.

        Parameters
        ----------
        rgb : uint8 [3, H, W]
        boxes_xyxy : float32 [M, 4] px
        labels : int64 [M]

        Returns
        -------
        the same, of another size, with the boxes that are left: maybe none
        """
        image = tv_tensors.Image(rgb)
        boxes = tv_tensors.BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=rgb.shape[-2:])
        if chance(self.recipe.hflip):
            image, boxes = TF.horizontal_flip(image), TF.horizontal_flip(boxes)
        # Without them nothing is drawn for them: what the paper's recipe draws stays as it was before there were any.
        if self.recipe.vflip and chance(self.recipe.vflip):
            image, boxes = TF.vertical_flip(image), TF.vertical_flip(boxes)
        if self.recipe.transpose and chance(self.recipe.transpose):
            image, boxes = transposed(image, boxes)
        if chance(self.recipe.crop):
            image, boxes, labels = self._cropped(image, boxes, labels)
        image, boxes = self._resized(image, boxes, pick(self.sizes))
        if self.recipe.color_jitter:
            image = jitter_color(image, self.recipe.color_jitter)
        return image.as_subclass(Tensor), boxes.as_subclass(Tensor), labels

    def _resized(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, shortest: int
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes]:
        longest = round(max(self.sizes) * LONGEST_PER_SHORTEST)
        size = list(resized_hw((image.shape[-2], image.shape[-1]), shortest, longest))
        return TF.resize(image, size, antialias=True), TF.resize(boxes, size)

    def _cropped(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, labels: Tensor
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, Tensor]:
        height, width = image.shape[-2:]
        pixels = min(height, width) / pick(CROP_FROM)
        least, most = (max(1, round(side * pixels)) for side in CROP_SIDES)
        crop_w = between(min(least, width), min(width, most))
        crop_h = between(min(least, height), min(height, most))
        top, left = between(0, height - crop_h), between(0, width - crop_w)
        image = TF.crop(image, top, left, crop_h, crop_w)
        boxes = TF.clamp_bounding_boxes(TF.crop(boxes, top, left, crop_h, crop_w))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return image, tv_tensors.wrap(boxes[kept], like=boxes), labels[kept]


def transposed(image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes]:
    """Rows become columns: mirrored at the diagonal from the upper left corner."""
    height, width = image.shape[-2:]
    turned = boxes.as_subclass(Tensor)[:, [1, 0, 3, 2]]
    return (
        tv_tensors.wrap(image.as_subclass(Tensor).transpose(-2, -1).contiguous(), like=image),
        tv_tensors.BoundingBoxes(turned, format="XYXY", canvas_size=(width, height)),
    )


def jitter_color(image: tv_tensors.Image, strength: float) -> tv_tensors.Image:
    """Brightness, contrast and saturation each times a factor in 1 ± strength."""
    for adjust in (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation):
        image = adjust(image, 1 + strength * (2 * float(torch.rand(())) - 1))
    return image


def chance(probability: float) -> bool:
    return float(torch.rand(())) < probability


def between(low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


def pick(values: Sequence[int]) -> int:
    return values[between(0, len(values) - 1)]
