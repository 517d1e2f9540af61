"""The paper's augmentation, scaled to the input size of the model."""

import math

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.config.schema import LONGEST_PER_SHORTEST
from conditional_detr.device.draws import GLOBAL, Draws
from conditional_detr.images.sizes import resized_hw

SCALE_STEPS = 11  # 480, 512, …, 800
CROP_FROM = (400, 500, 600)  # assumed lengths of the shorter side when a crop is drawn, px
CROP_SIDES = (384, 600)  # shortest and longest side of a crop at that length, px
WINDOWS = 0.75  # fraction of the training images that are windows, if prediction uses tiles
WINDOW_SIDES = (0.8, 1.25)  # shortest and longest side of a window, as a fraction of a tile


class Augmentation:
    """Flip, crop, resize and colour jitter for a uint8 image and its boxes.

    The paper's recipe has three steps:

    1. A horizontal flip with probability 0.5.
    2. With probability 0.5, a crop with sides of 384 to 600 px, measured as if the shorter side of the image had 400, 500 or
       600 px.
    3. A resize of the shorter side to 480, 512, …, 800 px, multiplied by `imgsz` / 800.

    The released code resizes the image to 400, 500 or 600 px before it crops. The crops cover the same areas, but are blurred
    if the file has more pixels than that.

    Source: DETR, appendix A.4 and released code. This library adds colour jitter, vertical flip and transposition. The paper's
    recipe does not use them. If prediction uses tiles, three quarters of the images are windows of about their size instead of
    step 2.

    Parameters
    ----------
    recipe : probabilities and ranges
    imgsz : shorter side of the model's input, px
    tile : side of the tiles, px of the image; 0 = none
    """

    def __init__(self, recipe: RecipeConfig, imgsz: int, tile: int = 0) -> None:
        self.recipe, self.tile = recipe, tile
        low, high = recipe.scales
        self.sizes = [round(imgsz * (low + (high - low) * i / (SCALE_STEPS - 1))) for i in range(SCALE_STEPS)]

    def __call__(self, rgb: Tensor, boxes_xyxy: Tensor, labels: Tensor, draws: Draws = GLOBAL) -> tuple[Tensor, Tensor, Tensor]:
        """Augment an image and its boxes.

        Parameters
        ----------
        rgb : uint8 [3, H, W]
        boxes_xyxy : float32 [M, 4] px
        labels : int64 [M]
        draws : source of random numbers

        Returns
        -------
        the image in its new size, and the boxes and labels that remain after the crop (possibly none)
        """
        image = tv_tensors.Image(rgb)
        boxes = tv_tensors.BoundingBoxes(boxes_xyxy, format="XYXY", canvas_size=rgb.shape[-2:])
        if draws.chance(self.recipe.hflip):
            image, boxes = TF.horizontal_flip(image), TF.horizontal_flip(boxes)
        # With a probability of 0 no random number is drawn, so the paper's recipe does not depend on these options.
        if self.recipe.vflip and draws.chance(self.recipe.vflip):
            image, boxes = TF.vertical_flip(image), TF.vertical_flip(boxes)
        if self.recipe.transpose and draws.chance(self.recipe.transpose):
            image, boxes = transposed(image, boxes)
        if self.tile and draws.chance(WINDOWS):
            image, boxes, labels = self._window(image, boxes, labels, draws)
        elif draws.chance(self.recipe.crop):
            image, boxes, labels = self._cropped(image, boxes, labels, draws)
        image, boxes = self._resized(image, boxes, draws.pick(self.sizes))
        if self.recipe.color_jitter:
            image = jitter_color(image, self.recipe.color_jitter, draws)
        return image.as_subclass(Tensor), boxes.as_subclass(Tensor), labels

    def _resized(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, shortest: int
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes]:
        longest = round(max(self.sizes) * LONGEST_PER_SHORTEST)
        size = list(resized_hw((image.shape[-2], image.shape[-1]), shortest, longest))
        return TF.resize(image, size, antialias=True), TF.resize(boxes, size)

    def _cropped(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, labels: Tensor, draws: Draws
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, Tensor]:
        height, width = image.shape[-2:]
        pixels = min(height, width) / draws.pick(CROP_FROM)
        least, most = (max(1, round(side * pixels)) for side in CROP_SIDES)
        crop_w = draws.between(min(least, width), min(width, most))
        crop_h = draws.between(min(least, height), min(height, most))
        return cut(image, boxes, labels, (draws.between(0, height - crop_h), draws.between(0, width - crop_w), crop_h, crop_w))

    def _window(
        self, image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, labels: Tensor, draws: Draws
    ) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, Tensor]:
        """A window about as large as a tile, around a random object if there is one."""
        sides = image.shape[-2], image.shape[-1]
        size = [min(side, draws.between(*(round(self.tile * share) for share in WINDOW_SIDES))) for side in sides]
        low, high = [0, 0], [side - length for side, length in zip(sides, size, strict=True)]
        if len(boxes):
            x0, y0, x1, y1 = boxes[draws.between(0, len(boxes) - 1)].tolist()
            for axis, centre in enumerate(((y0 + y1) / 2, (x0 + x1) / 2)):
                low[axis] = min(max(0, math.ceil(centre) - size[axis]), high[axis])
                high[axis] = max(low[axis], min(high[axis], math.floor(centre)))
        top, left = (draws.between(*limits) for limits in zip(low, high, strict=True))
        return cut(image, boxes, labels, (top, left, *size))


def cut(
    image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes, labels: Tensor, window: tuple[int, int, int, int]
) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes, Tensor]:
    """Crop an image to a window (top, left, height, width), px, and its boxes to the parts that can be seen."""
    image = TF.crop(image, *window)
    boxes = TF.clamp_bounding_boxes(TF.crop(boxes, *window))
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return image, tv_tensors.wrap(boxes[kept], like=boxes), labels[kept]


def transposed(image: tv_tensors.Image, boxes: tv_tensors.BoundingBoxes) -> tuple[tv_tensors.Image, tv_tensors.BoundingBoxes]:
    """Transpose the image and its boxes: swap rows and columns."""
    height, width = image.shape[-2:]
    swapped = boxes.as_subclass(Tensor)[:, [1, 0, 3, 2]]
    return (
        tv_tensors.wrap(image.as_subclass(Tensor).transpose(-2, -1).contiguous(), like=image),
        tv_tensors.BoundingBoxes(swapped, format="XYXY", canvas_size=(width, height)),
    )


def jitter_color(image: tv_tensors.Image, strength: float, draws: Draws) -> tv_tensors.Image:
    """Multiply brightness, contrast and saturation by random factors between 1 − strength and 1 + strength."""
    for adjust in (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation):
        image = adjust(image, 1 + strength * (2 * draws.uniform() - 1))
    return image
