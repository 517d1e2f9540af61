"""One path for pictures: decode, EXIF, resize, normalise, pad; and its inverse for boxes.

Training, evaluation and prediction all go through here. Nothing else resizes or normalises.
"""

import http.client
import io
import urllib.request
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from conditional_detr.boxes import cxcywh_to_xyxy
from conditional_detr.config import PreprocessorConfig
from conditional_detr.errors import ConfigError, ImageError, did_you_mean
from conditional_detr.model.detr import DetectionOutput

Picture = str | Path | Image.Image | np.ndarray

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
FETCH_SECONDS, FETCH_BYTES = 15.0, 64 * 2**20
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs, which it raises an error at


def decode(picture: Picture) -> Tensor:
    """Any picture as uint8 RGB [3, H, W], turned as its EXIF tag says.

    Gray, palette, 16-bit, CMYK and transparent pictures become RGB; of an animation the first frame is taken.

    Raises
    ------
    ImageError : what cannot be read, with its file name
    """
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
            raise ImageError(f"an array must be a uint8 RGB picture [H, W, 3], not {picture.dtype} {list(picture.shape)}")
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    if isinstance(picture, Image.Image):
        try:
            return _to_rgb(picture, "a PIL picture")
        except (OSError, SyntaxError, ValueError) as error:  # a file that PIL opened but had not read
            raise error if isinstance(error, ImageError) else ImageError(f"a PIL picture cannot be read: {error}") from None
    if not isinstance(picture, str | Path):
        raise ImageError(f"a picture must be a path, a PIL image or an array, not {type(picture).__name__}")
    data = _fetch(str(picture)) if is_url(picture) else _read(Path(picture))
    if not data:
        raise ImageError(f"{picture} is an empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as opened:
                return _to_rgb(opened, str(picture))
    except ImageError:
        raise
    except Exception as error:  # Pillow raises whatever its codecs do
        reason = "no picture format that is known" if "cannot identify" in str(error) else str(error)
        raise ImageError(f"{picture} cannot be read as a picture: {reason}") from None


def is_url(picture: str | Path) -> bool:
    """Whether a picture is named by its address on the web."""
    return isinstance(picture, str) and picture.startswith(("http://", "https://"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be opened: {error.strerror or error}") from None


def _fetch(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as answer:
            data: bytes = answer.read(FETCH_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImageError(f"{url} cannot be fetched: {getattr(error, 'reason', None) or error}") from None
    if len(data) > FETCH_BYTES:
        raise ImageError(f"{url} is larger than {FETCH_BYTES // 2**20} MiB and is not read")
    return data


def _to_rgb(image: Image.Image, name: str) -> Tensor:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{name} has {image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS}")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and wider, or fractions
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        if image.mode == "F" and values.max(initial=0) <= 1:
            values = values * 255
        elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
            values = values / 257
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


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
    """Pictures → the network's input. Stored with every checkpoint.

    Attributes
    ----------
    config : sizes in pixels, mean and standard deviation of the channels in [0, 1]
    """

    config: PreprocessorConfig

    def size_hw(self, original_hw: tuple[int, int]) -> tuple[int, int]:
        """The size, px, to which a picture is resized."""
        return resized_hw(original_hw, self.config.imgsz, self.config.longest)

    def padded_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The size, px, that a resized picture has in a batch of its own."""
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
        """Normalised pictures → images [B, 3, H, W] and padding mask bool [B, H, W] (True = padding).

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


class Pairs(NamedTuple):
    """The best pairs of query and class of each image, best first: [B, k] each."""

    scores: Tensor
    queries: Tensor
    labels: Tensor


def best_focal_pairs(logits: Tensor, top_k: int) -> Pairs:
    """Of all pairs of query and class, by sigmoid; a query may appear with several classes (Conditional DETR)."""
    classes = logits.shape[-1]
    flat = logits.sigmoid().flatten(1)
    scores, index = flat.topk(min(top_k, flat.shape[1]), dim=1)
    return Pairs(scores, torch.div(index, classes, rounding_mode="floor"), index % classes)


def best_softmax_pairs(logits: Tensor, top_k: int) -> Pairs:
    """Of each query its best class, by softmax over all classes and no object (DETR)."""
    best, labels = logits.softmax(-1)[..., :-1].max(-1)
    scores, queries = best.topk(min(top_k, best.shape[1]), dim=1)
    return Pairs(scores, queries, labels.gather(1, queries))


BEST_PAIRS = {"focal": best_focal_pairs, "softmax": best_softmax_pairs}


def best_pairs(logits: Tensor, top_k: int, classification: str) -> Pairs:
    """The best `top_k` pairs of query and class of logits [B, Q, K or K+1]."""
    if classification not in BEST_PAIRS:
        raise ConfigError(f"there is no classification {classification!r}. {did_you_mean(classification, BEST_PAIRS)}")
    return BEST_PAIRS[classification](logits.float(), top_k)


def boxes_in_pixels(boxes_cxcywh: Tensor, size_hw: Tensor) -> Tensor:
    """Boxes [..., 4] in [0, 1] → xyxy in pixels of pictures of size [..., 2]."""
    height, width = size_hw.to(boxes_cxcywh).unbind(-1)
    return cxcywh_to_xyxy(boxes_cxcywh) * torch.stack([width, height, width, height], dim=-1)


def postprocess(
    output: DetectionOutput, sizes_hw: Tensor, top_k: int = 100, classification: str = "focal"
) -> list[dict[str, Tensor]]:
    """The best `top_k` pairs of query and class, as boxes in pixels of the original pictures.

    No threshold, no suppression, no clipping (released code). With "focal" a query may appear with several classes, with
    "softmax" only with its best.

    Parameters
    ----------
    output : of the detector
    sizes_hw : [B, 2], heights and widths of the original pictures, px
    top_k : how many pairs an image
    classification : how the logits are read: "focal", or "softmax" where the last column means no object

    Returns
    -------
    a dict an image: "scores" [k] in [0, 1], falling; "labels" int64 [k], class indices; "boxes" [k, 4], xyxy px
    """
    scores, queries, labels = best_pairs(output.pred_logits, top_k, classification)
    boxes = output.pred_boxes.float().gather(1, queries[..., None].expand(-1, -1, 4))
    boxes = boxes_in_pixels(boxes, sizes_hw[:, None])
    return [{"scores": s, "labels": label, "boxes": b} for s, label, b in zip(scores, labels, boxes, strict=True)]
