"""Statistics of the objects of a split: sizes, shapes, numbers, classes and positions."""

from dataclasses import dataclass

import numpy as np

from conditional_detr.data.annotations import mark_of
from conditional_detr.data.clean import Clean
from conditional_detr.images.preprocessing import Preprocessor

CENTRE_CELLS = 32  # cells of the heat map of centres, in each direction


@dataclass(frozen=True)
class Statistics:
    """Statistics of the usable objects of a split, without crowds.

    Attributes
    ----------
    side : float [M], square root of the area of each object in the original image, px
    cells : float [M], the same on the feature map of the model, in cells
    aspect : float [M], width divided by height
    per_image : int [I], number of objects of each image
    class_names : [K]
    objects, images : int [K], number of objects of each class, and of the images that contain it
    together : int [K, K], number of images that contain both classes
    centres : int [32, 32], number of centres of objects in each part of the image: rows from top to bottom
    """

    side: np.ndarray
    cells: np.ndarray
    aspect: np.ndarray
    per_image: np.ndarray
    class_names: list[str]
    objects: np.ndarray
    images: np.ndarray
    together: np.ndarray
    centres: np.ndarray


def statistics(clean: Clean, preprocessor: Preprocessor, stride: int) -> Statistics:
    """Compute the statistics of a split.

    Parameters
    ----------
    preprocessor : resizes images for the model
    stride : of the finest feature map that the decoder attends to, px
    """
    rows = [row for row in clean.annotations if mark_of(row) is None]
    names = [category.name for category in clean.categories]
    label_of = {category.id: k for k, category in enumerate(clean.categories)}
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    owners = np.array([row["image"] for row in rows], dtype=np.int64)
    labels = np.array([label_of[row["category_id"]] for row in rows], dtype=np.int64)
    sizes = np.array([(image["width"], image["height"]) for image in clean.images], dtype=np.float64).reshape(-1, 2)
    resized = [preprocessor.size_hw((image["height"], image["width"]))[0] / image["height"] for image in clean.images]
    side = np.sqrt(boxes[:, 2] * boxes[:, 3])
    present = np.zeros((len(clean.images), len(names)), dtype=np.int64)
    present[owners, labels] = 1
    centre = (boxes[:, :2] + boxes[:, 2:] / 2) / sizes[owners]
    centres, _, _ = np.histogram2d(centre[:, 1], centre[:, 0], CENTRE_CELLS, ((0, 1), (0, 1)))
    return Statistics(
        side=side,
        cells=side * np.array(resized, dtype=np.float64)[owners] / stride,
        aspect=boxes[:, 2] / np.maximum(boxes[:, 3], 1e-9),
        per_image=np.bincount(owners, minlength=len(clean.images)),
        class_names=names,
        objects=np.bincount(labels, minlength=len(names)),
        images=present.sum(0),
        together=present.T @ present,
        centres=centres.astype(np.int64),
    )
