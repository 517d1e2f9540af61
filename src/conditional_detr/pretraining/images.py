"""Images of a folder with random patches, which pre-training must find again."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from conditional_detr.boxes import xyxy_to_cxcywh
from conditional_detr.data.clean import Category
from conditional_detr.data.findings import Finding, counted
from conditional_detr.data.index import SplitIndex
from conditional_detr.data.loader import TrainingImages
from conditional_detr.device.draws import GLOBAL
from conditional_detr.device.seeding import seed_generators
from conditional_detr.errors import DataError, ImageError, plural, shortened_list
from conditional_detr.images.decoding import decode
from conditional_detr.images.file_types import files_below, is_image_name
from conditional_detr.images.header import size_of
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.images.sizes import resized_hw
from conditional_detr.model.patches import KEPT
from conditional_detr.storage.run_files import CONFIG

LEAST_SIDE = 8  # px, of a patch; images that are not larger than twice this have no room for one
PATCH_SIDE = 128  # px, of a patch after resizing
SCALE_STEPS = 11  # sizes 320, 336, …, 480 of the shorter side, relative to the largest
SMALLEST = 320 / 480
LONGEST = 600 / 480  # limit of the longer side, relative to the largest shorter side


def image_folder(folder: str | Path) -> SplitIndex:
    """List all images of a folder and its subfolders, without boxes. Files that cannot be used are counted in `report`.

    Folders of runs, which contain pictures too, are passed over.

    Raises
    ------
    DataError : the folder does not exist or has no image that is large enough
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder of images: " + ("it is a file" if root.exists() else "it does not exist"))
    of_a_run = cache(lambda folder: (folder / CONFIG).is_file() or (folder != root and of_a_run(folder.parent)))
    files = sorted(path for path in files_below(root) if is_image_name(path) and not of_a_run(path.parent))
    sizes = [(path, size) for path in files if (size := size_of(path)) is not None]
    large = [(path, size) for path, size in sizes if min(size) > 2 * LEAST_SIDE]
    readable = {path for path, _ in sizes}
    findings = [
        Finding("image-unreadable", None, str(path.relative_to(root)), None, "it is not an image that can be read")
        for path in files
        if path not in readable
    ]
    small = [str(path.relative_to(root)) for path, size in sizes if min(size) <= 2 * LEAST_SIDE]
    report = counted(findings)
    if small:
        report.append(
            f"{plural(len(small), 'image')} with a side of at most {2 * LEAST_SIDE} px ({shortened_list(small, 3)}): left out"
        )
    if not files:
        raise DataError(f"{root} contains no images")
    if not large:
        raise DataError(f"{root} has no image with sides of more than {2 * LEAST_SIDE} px ({plural(len(files), 'image file')})")
    return SplitIndex(
        file=root,
        image_ids=np.arange(1, len(large) + 1),
        written_ids=list(range(1, len(large) + 1)),
        sizes_hw=np.array([size[::-1] for _, size in large], dtype=np.int64),
        paths=[str(path) for path, _ in large],
        first=np.zeros(len(large) + 1, dtype=np.int64),
        boxes_xyxy=np.zeros((0, 4), dtype=np.float32),
        labels=np.zeros(0, dtype=np.int64),
        categories=[Category(1, "patch")],
        report=report,
        findings=findings,
        ground_truth_rows=np.zeros((0, 8)),
    )


def random_boxes(size_hw: tuple[int, int], count: int) -> Tensor:
    """Random boxes int64 [count, 4] (x0, y0, x1, y1) px, of any size and aspect ratio, inside an image.

    Width and height are uniform between 8 px and 8 px less than the image. Random numbers come from torch's global generator.
    """
    boxes = []
    for _ in range(count):
        height, width = (GLOBAL.between(LEAST_SIDE, side - LEAST_SIDE) for side in size_hw)
        top, left = GLOBAL.between(0, size_hw[0] - height - 1), GLOBAL.between(0, size_hw[1] - width - 1)
        boxes.append([left, top, left + width, top + height])
    return torch.tensor(boxes)


class PatchImages(TrainingImages):
    """Images and patches of them, indexed as `TrainingImages`.

    The patches are cut from the original image, resized to 128 x 128 px and distorted in colour and sharpness. The image is
    only resized. The target has the boxes of the patches, labels of 1, "patches", uint8 [count, 3, 128, 128], and "kept", bool
    [num_queries]: whether a query carries its patch. All random numbers follow from the seed of an image.

    Source: UP-DETR, released code.

    Parameters
    ----------
    index : the images
    preprocessor : normalises images
    imgsz : largest length of the shorter side, px
    count, num_queries : number of patches per image, and of queries
    """

    draws_alone = False

    def __init__(self, index: SplitIndex, preprocessor: Preprocessor, imgsz: int, count: int, num_queries: int) -> None:
        self.index, self.preprocessor, self.imgsz = index, preprocessor, imgsz
        self.count, self.num_queries = count, num_queries
        self.jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)

    def loaded(self, i: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Image i and its target, with patches from a seed.

        Raises
        ------
        ConditionalDETRError : the image cannot be used
        """
        return self._load(i, seed)

    def _load(self, i: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        rgb = decode(self.index.paths[i])
        height, width = rgb.shape[-2:]
        if min(height, width) <= 2 * LEAST_SIDE:
            raise ImageError(f"{self.index.paths[i]} is too small for patches: {width} x {height} px")
        with torch.random.fork_rng(devices=[]):
            seed_generators(seed, rgb.device)
            boxes = random_boxes((height, width), self.count)
            patches = [self.patch(rgb[:, y0:y1, x0:x1]) for x0, y0, x1, y1 in boxes.tolist()]
            shortest = round(self.imgsz * (SMALLEST + (1 - SMALLEST) * GLOBAL.pick(range(SCALE_STEPS)) / (SCALE_STEPS - 1)))
            kept = torch.rand(self.num_queries) < KEPT
        size = resized_hw((height, width), shortest, round(self.imgsz * LONGEST))
        image = v2.functional.resize(rgb, list(size), antialias=True)
        relative = boxes.float() / torch.tensor([width, height, width, height])
        target = {"labels": torch.ones(self.count, dtype=torch.int64), "boxes": xyxy_to_cxcywh(relative)}
        return self.preprocessor.normalise(image), target | {"patches": torch.stack(patches), "kept": kept}

    def patch(self, crop: Tensor) -> Tensor:
        """Resize a patch and distort its colours and sharpness: uint8 [3, h, w] → uint8 [3, 128, 128]."""
        patch: Tensor = v2.functional.resize(crop, [PATCH_SIDE, PATCH_SIDE], antialias=True)
        if GLOBAL.chance(0.8):
            patch = self.jitter(patch)
        if GLOBAL.chance(0.2):
            patch = v2.functional.rgb_to_grayscale(patch, num_output_channels=3)
        if GLOBAL.chance(0.5):
            sigma = 0.1 + 1.9 * GLOBAL.uniform()
            patch = v2.functional.gaussian_blur(patch, [2 * round(3 * sigma) + 1] * 2, [sigma, sigma])
        return patch
