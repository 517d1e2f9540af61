"""Resize, normalise and pad tensors, for training and for models that PyTorch runs.

`array_preprocessing` does the same without PyTorch, for exported models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.images.sizes import input_hw, padded_hw


@dataclass(frozen=True)
class Preprocessor:
    """Converts images to the input of the network. Its configuration is stored in every checkpoint.

    Attributes
    ----------
    config : sizes in px, and mean and standard deviation of each channel for values in [0, 1]
    """

    config: PreprocessorConfig

    def size_hw(self, original_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width, px, to which an image is resized."""
        return input_hw(original_hw, self.config)

    def padded_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width, px, of a resized image after padding, if it is alone in a batch."""
        return padded_hw(size_hw, self.config)

    def __call__(self, rgb: Tensor) -> Tensor:
        """Resize and normalise an image: uint8 [3, H, W] → float32 [3, h, w]."""
        return self.normalise(resize(rgb, self.size_hw((rgb.shape[-2], rgb.shape[-1]))))

    def normalise(self, rgb: Tensor) -> Tensor:
        """Normalise the channels by mean and standard deviation: uint8 [..., 3, H, W] → float32 [..., 3, H, W]."""
        mean, std = (torch.tensor(v, device=rgb.device).view(3, 1, 1) for v in (self.config.mean, self.config.std))
        return (rgb.float() / 255 - mean) / std

    def denormalise(self, image: Tensor) -> Tensor:
        """Invert `normalise`, to display an image."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.config.mean, self.config.std))
        return ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def collate(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Batch normalised images: returns images [B, 3, H, W] and padding mask bool [B, H, W] (True = padding).

        Images are padded with zeros at the bottom and the right. The mask is None if nothing is padded.
        """
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        height, width = self.padded_hw((max(h for h, _ in sizes), max(w for _, w in sizes)))
        batch = torch.stack([F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images])
        if all(size == (height, width) for size in sizes):
            return batch, None
        rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
        return batch, torch.stack([(rows >= h) | (columns >= w) for h, w in sizes])


def resize(rgb: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize an image bilinearly with antialiasing: uint8 [3, H, W] → uint8 [3, h, w].

    The result is that of torchvision's resize. This function avoids importing `transforms.v2`, which is slow.
    """
    if (rgb.shape[-2], rgb.shape[-1]) == tuple(size_hw):
        return rgb
    if rgb[None].is_contiguous(memory_format=torch.channels_last):  # keep this memory format
        batch = rgb.as_strided((1, *rgb.shape), (rgb.numel(), *rgb.stride()))
    else:
        batch = rgb[None]
    return F.interpolate(batch, list(size_hw), mode="bilinear", antialias=True)[0]
