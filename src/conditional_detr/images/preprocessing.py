"""Resize, normalise, pad: the one path for training, evaluation and prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from conditional_detr.config.schema import PreprocessorConfig


def resized_hw(size_hw: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """Height and width, px, after the shorter side is brought to `shortest`, the longer staying within `longest`.

    The aspect ratio is kept; fractions are cut off, as in DETR's code, so that sizes agree with it to the pixel.
    """
    height, width = size_hw
    short, long = min(size_hw), max(size_hw)
    if long / short * shortest > longest:
        shortest = max(1, round(longest * short / long))
    other = min(max(1, int(shortest * long / short)), max(longest, 1))
    return (shortest, other) if height <= width else (other, shortest)


@dataclass(frozen=True)
class Preprocessor:
    """Images → the network's input. Stored with every checkpoint.

    Attributes
    ----------
    config : sizes in pixels, mean and standard deviation of the channels in [0, 1]
    """

    config: PreprocessorConfig

    def size_hw(self, original_hw: tuple[int, int]) -> tuple[int, int]:
        """The size, px, to which an image is resized."""
        return resized_hw(original_hw, self.config.imgsz, self.config.longest)

    def padded_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The size, px, that a resized image has in a batch of its own."""
        m = self.config.size_multiple
        return -(-size_hw[0] // m) * m, -(-size_hw[1] // m) * m

    def __call__(self, rgb: Tensor) -> Tensor:
        """uint8 [3, H, W] → float32 [3, h, w], resized and normalised."""
        return self.normalise(resize(rgb, self.size_hw((rgb.shape[-2], rgb.shape[-1]))))

    def normalise(self, rgb: Tensor) -> Tensor:
        """uint8 [3, H, W] → float32, channels shifted and scaled."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.mean, self.config.std))
        return (rgb.float() / 255 - mean) / std

    def denormalise(self, image: Tensor) -> Tensor:
        """The inverse of `normalise`, for eyes."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.mean, self.config.std))
        return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def collate(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Normalised images → images [B, 3, H, W] and padding mask bool [B, H, W] (True = padding).

        Zeros are added at the bottom and the right. Where nothing is padded the mask is None.
        """
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        height, width = self.padded_hw((max(h for h, _ in sizes), max(w for _, w in sizes)))
        batch = torch.stack([F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images])
        if all(size == (height, width) for size in sizes):
            return batch, None
        rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
        return batch, torch.stack([(rows >= h) | (columns >= w) for h, w in sizes])


def resize(rgb: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """uint8 [3, H, W] → uint8 [3, h, w], bilinear with antialiasing."""
    if (rgb.shape[-2], rgb.shape[-1]) == tuple(size_hw):
        return rgb
    resized: Tensor = TF.resize(rgb, list(size_hw), antialias=True)
    return resized
