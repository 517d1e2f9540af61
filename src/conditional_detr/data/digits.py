"""Generate the digits data set offline: handwritten digits pasted on photographs. The same seed gives the same data.

The digits are the 1,797 samples of 8 × 8 px from the UCI test set of optical recognition of handwritten digits. The
photographs are `china.jpg` and `flower.jpg`, 427 × 640 px. Both come with scikit-learn. Training scenes use three quarters of
the digits and the left three quarters of both photographs. Validation scenes use the rest, so the two splits share no digit
and no part of a photograph.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from conditional_detr.errors import ConfigError, DataError, UnavailableError
from conditional_detr.storage.writing import writing

CATEGORIES = [{"id": i + 1, "name": str(i), "supercategory": "digit"} for i in range(10)]
SPLIT_SHARE = 0.75  # fraction of the digits and of the width of the photographs used for training
SMALLEST, LARGEST = 0.2, 0.5  # height of a pasted digit with its margin, as a fraction of the scene's height
MAX_OVERLAP = 0.15  # highest overlap of two boxes, as a fraction of the smaller box
INK = 0.25  # lowest ink value, in [0, 1], of a pixel that counts as part of a digit

Scene = tuple[np.ndarray, list[tuple[int, int, int, int]], list[int]]  # see `draw_scene`


def make_digits(folder: Path, train: int, valid: int, size: int = 128, seed: int = 0) -> None:
    """Write the data set as COCO folders `train/` and `valid/`, each with an `_annotations.coco.json`.

    Parameters
    ----------
    folder : output folder, created if needed. It must not contain `train` or `valid`
    train, valid : number of scenes per split
    size : height and width of a scene, px
    seed : random seed; the same seed gives identical files
    """
    for name, value in (("train", train), ("valid", valid)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
        if (folder / name).exists():
            raise DataError(f"{folder / name} exists already: give a new folder, or remove it first")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, not {seed}")
    if not 32 <= size <= 2048:
        raise ConfigError(f"size must be 32 to 2048 px, not {size}")
    for stream, (split, number, material) in enumerate(zip(("train", "valid"), (train, valid), materials(), strict=True)):
        rng = np.random.default_rng([seed, stream])
        with writing(folder / split, DataError):
            _write_split(folder / split, (draw_scene(*material, size, rng) for _ in range(number)))


class Material(NamedTuple):
    """Sources of the scenes: digits float [N, 8, 8] in [0, 1], their labels, and parts of photographs uint8 [H, W, 3]."""

    digits: np.ndarray
    labels: np.ndarray
    regions: list[np.ndarray]


def materials() -> tuple[Material, Material]:
    """Return the sources of the training scenes and of the validation scenes. They have nothing in common."""
    digits, labels, photographs = _sources()
    # A fixed seed: the digits used for training do not depend on the seed of the scenes.
    order = np.random.default_rng(0).permutation(len(digits))
    train, valid = np.split(order, [int(SPLIT_SHARE * len(digits))])
    left, right = zip(*(np.split(p, [int(SPLIT_SHARE * p.shape[1])], axis=1) for p in photographs), strict=True)
    return Material(digits[train], labels[train], list(left)), Material(digits[valid], labels[valid], list(right))


def _sources() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Load digits float [N, 8, 8] in [0, 1], their labels, and two photographs uint8 [H, W, 3]."""
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ImportError:
        raise UnavailableError(
            "the digits data set needs scikit-learn, which is not installed: pip install 'conditional-detr[demo]'"
        ) from None
    bunch = load_digits()
    return bunch.images / 16.0, bunch.target, list(load_sample_images().images)


def _write_split(folder: Path, scenes: Iterable[Scene]) -> None:
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (scene, boxes, classes) in enumerate(scenes, 1):
        name = f"{image_id:05d}.png"
        Image.fromarray(scene).save(folder / name, compress_level=1)
        images.append({"id": image_id, "file_name": name, "width": scene.shape[1], "height": scene.shape[0]})
        for (x, y, w, h), label in zip(boxes, classes, strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(label) + 1,
                 "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            )  # fmt: skip
    info = {"description": "scenes of UCI handwritten digits over scikit-learn's sample photographs"}
    text = json.dumps({"info": info, "images": images, "annotations": annotations, "categories": CATEGORIES})
    (folder / "_annotations.coco.json").write_text(text, encoding="utf-8")


def draw_scene(digits: np.ndarray, labels: np.ndarray, regions: list[np.ndarray], size: int, rng: np.random.Generator) -> Scene:
    """Draw a scene.

    Returns
    -------
    the image uint8 [size, size, 3], its boxes (x, y, w, h) in whole px, tight around the ink, and the digit in each box
    """
    canvas = _background(regions, size, rng)
    boxes: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    wanted = int(rng.integers(1, 9))
    for _ in range(20 * wanted):
        if len(boxes) == wanted:
            break
        index = int(rng.integers(len(digits)))
        height = round(size * float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))))
        width = max(4, round(height * float(rng.uniform(0.75, 1.1))))
        ink = _resized(digits[index], height, width)
        rows, columns = np.where(ink.max(1) >= INK)[0], np.where(ink.max(0) >= INK)[0]
        top, left = int(rng.integers(0, size - height + 1)), int(rng.integers(0, size - width + 1))
        box = (
            left + int(columns[0]), top + int(rows[0]),
            int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1,
        )  # fmt: skip
        if any(_overlap(box, other) > MAX_OVERLAP for other in boxes):
            continue
        patch = canvas[top : top + height, left : left + width]
        color = _contrasting(patch, rng)
        alpha = np.clip(ink * float(rng.uniform(1.1, 1.6)), 0, 1)[..., None]
        canvas[top : top + height, left : left + width] = patch * (1 - alpha) + color * alpha
        boxes.append(box)
        classes.append(int(labels[index]))
    return canvas.round().clip(0, 255).astype(np.uint8), boxes, classes


def _resized(ink: np.ndarray, height: int, width: int) -> np.ndarray:
    image = Image.fromarray(ink.astype(np.float32))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image, dtype=np.float32).clip(0, 1)


def _background(regions: list[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """Random crop of a photograph: resized, mirrored with probability 0.5, with random brightness and contrast."""
    region = regions[int(rng.integers(len(regions)))]
    side = int(rng.integers(80, min(region.shape[:2]) + 1))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in region.shape[:2])
    crop = Image.fromarray(region[top : top + side, left : left + side]).resize((size, size), Image.Resampling.BILINEAR)
    background = np.asarray(crop, dtype=np.float32)
    if rng.random() < 0.5:
        background = background[:, ::-1]
    mean = background.mean((0, 1))
    varied: np.ndarray = (background - mean) * rng.uniform(0.5, 1.0) + mean * rng.uniform(0.6, 1.2)
    return varied


def _contrasting(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random colour whose mean differs from the mean of the patch by at least 70 (of 255)."""
    below = patch.mean()
    while True:
        color = rng.uniform(0, 255, 3)
        if abs(color.mean() - below) >= 70:
            return color


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Area of the intersection of two boxes (x, y, w, h), as a fraction of the smaller box."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / min(a[2] * a[3], b[2] * b[3])
