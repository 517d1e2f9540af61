"""Make images of drawn shapes. The bundled model `conditional-detr-tiny-objects` is trained on them, and on photographs.

The weights of `conditional-detr-tiny-shapes` come from simpler images: those that this file drew at commit 8b85a45.

An image holds between one large object and two hundred small ones, of one kind or several. Objects may touch and occlude each
other, and have an inside: a core, spots, stripes, a texture. The background is a photograph, noise or a plain colour. They may
look as if seen through a microscope, by a thermal camera or from above, and be blurred, noisy or strongly compressed. The only
external sources are scikit-learn's two photographs and its digits.

    python benchmarks/shapes.py DIR --train 6000 --valid 200
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits, load_sample_images

KINDS = ("ellipse", "rectangle", "triangle", "star", "ring", "cross", "blob", "crescent", "digit", "letter-like")
SIDES = (160, 320)  # smallest and largest side of an image, px
SMALLEST, LARGEST = 0.04, 0.75  # typical size of an object, as a fraction of the image's shorter side
SMALLEST_PX = 6  # smallest size of an object
MOST = 200  # objects per image
TOO_FAINT = 6.0  # an object that changes the image by less than this on average, in grey levels, is not labelled, so not drawn
COVERED = 0.45  # largest fraction of the image area that objects of the typical size, taken as squares, may cover
MOST_HIDDEN = 0.6  # largest fraction of an object that one later object may occlude
LEAST_SEEN = 0.35  # smallest fraction of an object that must be inside the image
SMALLEST_AREA = 12  # smallest area of an object inside the image, px
INSIDE = 0.5  # opacity above which a pixel belongs to an object

Array = np.ndarray


class Painter:
    """Draws images with one random number generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.photographs = [np.asarray(p, dtype=np.float32) for p in load_sample_images().images]
        self.digits = load_digits().images.astype(np.float32) / 16

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def log_between(self, low: float, high: float) -> float:
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def color(self) -> Array:
        return self.rng.uniform(0, 255, 3).astype(np.float32)

    def photograph(self, height: int, width: int) -> Array:
        """Random part of a photograph, randomly mirrored, with permuted colour channels or in grey."""
        photo = self.photographs[int(self.rng.integers(len(self.photographs)))]
        side = self.log_between(60, 420)
        scale = side / max(height, width)
        h, w = (max(8, min(int(scale * each), photo.shape[axis])) for axis, each in enumerate((height, width)))
        top, left = (int(self.rng.integers(0, photo.shape[axis] - each + 1)) for axis, each in enumerate((h, w)))
        crop = Image.fromarray(photo[top : top + h, left : left + w].astype(np.uint8))
        out = np.asarray(crop.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
        out = out[:: self.rng.choice([-1, 1]), :: self.rng.choice([-1, 1])]
        if self.rng.random() < 0.5:
            out = out[..., self.rng.permutation(3)]
        if self.rng.random() < 0.2:
            out = np.repeat(out.mean(-1, keepdims=True), 3, -1)
        return out

    def noise(self, height: int, width: int) -> Array:
        """Smooth noise of several scales, blending two colours."""
        total = np.zeros((height, width), np.float32)
        for octave in range(int(self.rng.integers(1, 5))):
            n = 2 ** (octave + 1) + 1
            small = Image.fromarray(self.rng.normal(size=(n, n)).astype(np.float32))
            weight = 2 ** (-octave * self.between(0.2, 1.0))
            total += weight * np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
        share = (1 / (1 + np.exp(-2 * total)))[..., None]
        return self.color() * share + self.color() * (1 - share)

    def surface(self, height: int, width: int) -> Array:
        """Random texture for a background or an object: photograph, noise or a colour gradient."""
        kind = self.rng.random()
        if kind < 0.45:
            return self.photograph(height, width)
        if kind < 0.75:
            return self.noise(height, width)
        slope = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :, None] * self.between(-60, 60)
        return np.broadcast_to(self.color() + slope, (height, width, 3)).astype(np.float32)

    def opacity(self, kind: int, style: dict, size: float) -> Array:
        """Opacity of an object, [h, w] in [0, 1]: 1 inside, with a soft edge."""
        aspect = float(np.exp(self.rng.normal(0, style["aspect"])))
        half_w, half_h = size / 2 * aspect**0.5, size / 2 / aspect**0.5
        reach = int(np.ceil(1.45 * max(half_w, half_h))) + 2
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
        x, y = x + self.between(-0.5, 0.5), y + self.between(-0.5, 0.5)
        angle = self.rng.normal(0, style["turn"])
        u, v = (x * np.cos(angle) + y * np.sin(angle)) / half_w, (y * np.cos(angle) - x * np.sin(angle)) / half_h
        name, radius, theta = KINDS[kind], np.hypot(u, v), np.arctan2(v, u)
        if name in ("digit", "letter-like"):
            return self.glyph(name, u, v, reach)
        if name == "ellipse":
            inside = 1 - radius
        elif name == "rectangle":
            inside = 1 - np.maximum(abs(u), abs(v))
        elif name == "triangle":
            inside = 1 - np.maximum(v, np.maximum(1.73 * u - v, -1.73 * u - v) / 2 + 0.1)
        elif name == "star":
            points = style["points"]
            inside = 1 - radius / (0.68 + 0.32 * np.cos(points * theta))
        elif name == "ring":
            inside = style["thick"] - abs(radius - 1 + style["thick"])
        elif name == "cross":
            inside = np.minimum(1 - np.maximum(abs(u), abs(v)), style["thick"] - np.minimum(abs(u), abs(v)))
        elif name == "crescent":
            inside = np.minimum(1 - radius, np.hypot(u - 0.55, v) - 0.75)
        else:
            waves = sum(self.rng.normal(0, style["rough"]) / k * np.cos(k * theta + self.between(0, 6.3)) for k in range(2, 8))
            inside = np.clip(0.85 + waves, 0.35, 1.4) - radius
        return np.clip(inside * min(half_w, half_h) / style["soft"] + 0.5, 0, 1)

    def glyph(self, name: str, u: Array, v: Array, reach: int) -> Array:
        """Opacity of a handwritten digit or of a few random strokes, sampled at the coordinates (u, v) in [−1, 1]."""
        if name == "digit":
            source = self.digits[int(self.rng.integers(len(self.digits)))]
        else:
            source = np.zeros((8, 8), np.float32)
            for _ in range(int(self.rng.integers(2, 5))):
                i, j = (int(k) for k in self.rng.integers(1, 7, 2))
                if self.rng.random() < 0.5:
                    source[i, min(i, j) : max(i, j) + 2] = 1
                else:
                    source[min(i, j) : max(i, j) + 2, j] = 1
        source = np.asarray(Image.fromarray(source).resize((64, 64), Image.Resampling.BICUBIC))
        rows, columns = ((np.clip((each + 1) / 2, 0, 1) * 63).round().astype(int) for each in (v, u))
        seen = (abs(u) <= 1) & (abs(v) <= 1)
        return np.where(seen, np.clip(source[rows, columns] * 1.5 - 0.25, 0, 1), 0)

    def style(self) -> dict:
        """Random appearance that is shared by all objects of one group in an image."""
        return {
            "aspect": self.between(0.05, 0.5),
            "turn": float(self.rng.choice([0.15, 0.6, 3.0])),
            "points": int(self.rng.integers(3, 8)),
            "thick": self.between(0.15, 0.4),
            "rough": self.between(0.05, 0.35),
            "soft": self.log_between(0.8, 5),
            "opaque": self.between(0.55, 1),
            "color": self.color(),
            "varies": self.log_between(4, 60),
            "rim": self.rng.random() < 0.3,
            "core": self.rng.random() < 0.25,
            "surface": self.rng.random() < 0.35,
            "inside": str(self.rng.choice(["plain", "plain", "spots", "stripes", "shells"])),
            "contrast": self.between(20, 110) * self.rng.choice([-1, 1]),
        }

    def fill(self, alpha: Array, style: dict) -> Array:
        if style["surface"]:
            fill = self.surface(*alpha.shape) * 0.7 + style["color"] * 0.3
        else:
            fill = np.ones((*alpha.shape, 3)) * (style["color"] + self.rng.normal(0, style["varies"], 3))
            fill = fill + self.rng.normal(0, style["varies"] / 4, (*alpha.shape, 1))
        if style["rim"]:
            fill = fill * (0.5 + 0.5 * np.clip(alpha * 2 - 1, 0, 1) ** 4)[..., None]
        if style["core"]:
            n = alpha.shape[0]
            y, x = (np.mgrid[:n, : alpha.shape[1]] - np.array(alpha.shape).reshape(2, 1, 1) / 2) / n
            fill = fill + self.between(-90, 90) * np.exp(-((x**2 + y**2) / self.between(0.005, 0.04)))[..., None]
        return fill + style["contrast"] * self.inside(style["inside"], alpha.shape[0])[..., None]

    def inside(self, kind: str, n: int) -> Array:
        """Inner structure of an object, [n, n] in [0, 1]."""
        if kind == "plain":
            return np.zeros((n, n), np.float32)
        v, u = np.mgrid[-1 : 1 : n * 1j, -1 : 1 : n * 1j].astype(np.float32)
        if kind == "spots":
            at = self.rng.uniform(-0.6, 0.6, (int(self.rng.integers(1, 8)), 2))
            width = self.log_between(0.003, 0.05)
            return np.clip(sum(np.exp(-((u - x) ** 2 + (v - y) ** 2) / width) for x, y in at), 0, 1)
        angle, often = self.between(0, 3.14), self.between(4, 16)
        waves = np.cos(often * (np.hypot(u, v) if kind == "shells" else u * np.cos(angle) + v * np.sin(angle)))
        return (waves + 1) / 2

    def image(self) -> tuple[Array, list[list[float]], list[int]]:
        """Draw one image: pixels uint8 [H, W, 3], boxes (x, y, w, h) in px, and class indices."""
        rng = self.rng
        height, width = (int(rng.integers(SIDES[0], SIDES[1] + 1)) for _ in range(2))
        side = min(height, width)
        canvas = self.surface(height, width).copy()
        wanted = round(self.log_between(1, MOST + 1)) if rng.random() > 0.04 else 0
        typical = self.log_between(SMALLEST, min(LARGEST, (COVERED * height * width / max(1, wanted)) ** 0.5 / side))
        sorts = [(int(rng.integers(len(KINDS))), self.style()) for _ in range(int(rng.integers(1, 5)))]
        spread, crowded = self.between(0.05, 0.5), rng.random() < 0.35
        centre = np.array([self.between(0.2, 0.8) * width, self.between(0.2, 0.8) * height])
        masks: list[Mask] = []
        kinds: list[int] = []
        for _ in range(wanted):
            kind, style = sorts[int(rng.integers(len(sorts)))]
            size = max(SMALLEST_PX, min(side * typical * float(np.exp(rng.normal(0, spread))), 0.9 * side))
            alpha = self.opacity(kind, style, size)
            anywhere = (0, width), (0, height)
            place = centre + rng.normal(0, 0.22 * side, 2) if crowded else [self.between(*each) for each in anywhere]
            mask = self.put(canvas, alpha, style, [int(p) - alpha.shape[0] // 2 for p in place], masks)
            if mask is not None:
                masks.append(mask)
                kinds.append(kind)
        if rng.random() < 0.35:
            canvas = self.toned(canvas)
        if rng.random() < 0.35:
            blurred = Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))
            canvas = np.asarray(blurred.filter(ImageFilter.GaussianBlur(self.log_between(0.3, 1.6))), dtype=np.float32)
        canvas = canvas + rng.normal(0, self.between(0, 12), canvas.shape)
        return canvas.round().clip(0, 255).astype(np.uint8), [mask.box for mask in masks], kinds

    def toned(self, canvas: Array) -> Array:
        """The image as a microscope, a thermal camera or a camera above the ground might see it."""
        height, width = canvas.shape[:2]
        kind = self.rng.choice(["microscope", "thermal", "above"])
        grey = canvas.mean(-1, keepdims=True)
        if kind == "microscope":  # stained, bright in the middle
            v, u = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            stain = np.array([self.between(150, 250), self.between(130, 230), self.between(150, 250)])
            mixed = 0.4 * canvas + 0.6 * (grey / 255 * self.between(0.3, 0.7) + self.between(0.3, 0.5)) * stain
            return mixed * (1 - self.between(0, 0.45) * (u**2 + v**2) / 2)[..., None]
        if kind == "thermal":
            grey = 255 - grey if self.rng.random() < 0.5 else grey
            return np.repeat(255 * (grey.clip(0, 255) / 255) ** self.between(0.5, 1.8), 3, -1)
        ground = np.array([self.between(60, 130), self.between(80, 150), self.between(40, 100)])
        return (0.5 * grey + 0.25 * canvas + 0.35 * (ground - 30)) * self.between(0.7, 1.1)

    def put(self, canvas: Array, alpha: Array, style: dict, place: list[int], before: list["Mask"]) -> "Mask | None":
        """Paint an object onto the canvas, with the upper left corner of its opacity map at `place` (x, y).

        Returns its mask. Returns None and paints nothing if the object would occlude an earlier one too much or be
        mostly outside the image.
        """
        (height, width), (x, y) = canvas.shape[:2], place
        top, left, bottom, right = max(0, y), max(0, x), min(height, y + alpha.shape[0]), min(width, x + alpha.shape[1])
        if bottom - top < 4 or right - left < 4:
            return None
        cut = (slice(top - y, bottom - y), slice(left - x, right - x))
        mask = Mask(left, top, alpha[cut] > INSIDE)
        if mask.inside.sum() < max(LEAST_SEEN * (alpha > INSIDE).sum(), SMALLEST_AREA):
            return None
        if any(mask.covered(other) > MOST_HIDDEN * other.inside.sum() for other in before):
            return None
        a, there = (alpha * style["opaque"])[cut][..., None], canvas[top:bottom, left:right]
        change = (self.fill(alpha, style)[cut] - there) * a
        if abs(change)[mask.inside].mean() < TOO_FAINT:
            return None
        there += change
        return mask


class Mask(NamedTuple):
    """The pixels of an object: bool [h, w], and the place of their upper left corner in the image, px."""

    left: int
    top: int
    inside: Array

    @property
    def box(self) -> list[float]:
        """Tight bounding box (x, y, w, h), px."""
        rows, columns = np.where(self.inside.any(1))[0], np.where(self.inside.any(0))[0]
        width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
        return [float(self.left + columns[0]), float(self.top + rows[0]), float(width), float(height)]

    def covered(self, other: "Mask") -> int:
        """Number of pixels of another mask that this one covers."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = (min(a[i] + a.inside.shape[1 - i] for a in (self, other)) for i in (0, 1))
        if right <= left or bottom <= top:
            return 0
        parts = (m.inside[top - m.top : bottom - m.top, left - m.left : right - m.left] for m in (self, other))
        return int(np.logical_and(*parts).sum())


def make_shapes(folder: Path, train: int, valid: int, seed: int = 0) -> None:
    """Write the data set as COCO folders `train/` and `valid/`."""
    for stream, (split, number) in enumerate((("train", train), ("valid", valid))):
        painter = Painter(np.random.default_rng([seed, stream]))
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for image_id in range(1, number + 1):
            rgb, boxes, kinds = painter.image()
            name = f"{image_id:05d}.jpg"
            Image.fromarray(rgb).save(folder / split / name, quality=int(painter.rng.integers(55, 96)))
            images.append({"id": image_id, "file_name": name, "width": rgb.shape[1], "height": rgb.shape[0]})
            for box, kind in zip(boxes, kinds, strict=True):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image_id, "category_id": kind + 1, "bbox": box,
                     "area": box[2] * box[3], "iscrowd": 0}
                )  # fmt: skip
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(KINDS)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder for the data set")
    parser.add_argument("--train", type=int, default=6000, help="number of training images")
    parser.add_argument("--valid", type=int, default=200, help="number of validation images")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    arguments = parser.parse_args()
    make_shapes(arguments.folder, arguments.train, arguments.valid, arguments.seed)
