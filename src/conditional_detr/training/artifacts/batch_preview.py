"""Preview of a training batch as the model sees it, to check that the boxes are in the right position."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conditional_detr.boxes import cxcywh_to_xyxy
from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.inference.drawing import draw, save_image

MOST, COLUMNS = 16, 4  # maximum number of images, and images per row
GAP = 8  # px between images


def save_batch_preview(
    images: Tensor,
    padding_mask: Tensor | None,
    targets: list[dict[str, Tensor]],
    preprocessor: PreprocessorConfig,
    class_names: list[str],
    file: Path,
) -> None:
    """Save up to 16 images of a batch with their boxes, in a grid.

    Parameters
    ----------
    images : [B, 3, H, W], normalised
    padding_mask : bool [B, H, W], True = padding; or None
    targets : one dict per image: labels, and boxes (cx, cy, w, h) in [0, 1] of the unpadded image
    preprocessor : has the mean and standard deviation that the images were normalised with
    class_names : class names by class index
    file : image file to write
    """
    undo = Preprocessor(preprocessor).denormalise
    tiles = []
    for i in range(min(MOST, len(images))):
        valid = torch.ones(images.shape[-2:], dtype=torch.bool) if padding_mask is None else ~padding_mask[i]
        height, width = int(valid.any(1).sum()), int(valid.any(0).sum())
        rgb = undo(images[i])[:, :height, :width]
        labels = targets[i]["labels"].numpy()
        boxes = cxcywh_to_xyxy(targets[i]["boxes"]) * torch.tensor([width, height, width, height])
        names = [class_names[label] for label in labels]
        tiles.append(draw(rgb.permute(1, 2, 0).numpy(), boxes.numpy(), labels, names))
    save_image(grid(tiles), file)


def grid(tiles: list[np.ndarray]) -> np.ndarray:
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = (max(tile.shape[axis] for tile in tiles) + GAP for axis in (0, 1))
    sheet = np.full((rows * height + GAP, columns * width + GAP, 3), 255, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // columns * height, GAP + i % columns * width
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet
