"""Draw attention maps over the image, as in the paper's figure."""

import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from conditional_detr.errors import RunError
from conditional_detr.explaining.maps import Explanation
from conditional_detr.inference.drawing import save_image
from conditional_detr.storage.writing import writing

TILE, SHORTEST, LONGEST = 168, 88, 420  # px: longer side of a map, minimum of its shorter side, maximum of its longer side
GAP, MARGIN, LINE, LABELS = 6, 12, 22, 84
NARROWEST = 780  # minimum width of a figure, px, so that the text fits
ROWS = ("spatial", "content", "combined")
SAMPLE_RADIUS = 9  # px, of the circle of a sample whose weight is 1
BOX, POINT, INK, PAPER, DIM = (0, 230, 118), (255, 255, 255), (30, 30, 30), (255, 255, 255), (120, 120, 120)
GLOW = 0.75  # opacity of the colour at the highest value of a map


def overlay(rgb: np.ndarray, attention: np.ndarray, cell_size: tuple[float, float]) -> np.ndarray:
    """Draw a map over a dimmed image. The highest cell is the brightest.

    Parameters
    ----------
    rgb : uint8 [H, W, 3]
    attention : map [h, w]
    cell_size : width and height of a cell in pixels of the image; the last cells may extend beyond the image
    """
    height, width = rgb.shape[:2]
    rows, columns = attention.shape
    # The centre of cell i is at (i + 0.5) cells. Between centres the map is interpolated.
    x = (np.arange(width, dtype=np.float32) + 0.5) / cell_size[0] - 0.5
    y = (np.arange(height, dtype=np.float32) + 0.5) / cell_size[1] - 0.5
    grid_x, grid_y = np.meshgrid(x.clip(0, columns - 1).astype(np.float32), y.clip(0, rows - 1).astype(np.float32))
    smooth = cv2.remap(attention.astype(np.float32), grid_x, grid_y, cv2.INTER_LINEAR)
    level = smooth / max(float(attention.max()), 1e-12)
    colour = cv2.applyColorMap((level * 255).clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    gray = rgb.mean(2, keepdims=True) * 0.55
    cover = GLOW * level[..., None] ** 0.6
    blended: np.ndarray = (gray * (1 - cover) + colour * cover).clip(0, 255).astype(np.uint8)
    return blended


class Tiles:
    """Draws the maps of a detection over its image, each at the size of one tile of the figure."""

    def __init__(self, rgb: np.ndarray, explanation: Explanation) -> None:
        short, long = min(rgb.shape[:2]), max(rgb.shape[:2])
        self.factor = min(max(TILE / long, SHORTEST / short), LONGEST / long)
        self.size = max(1, round(rgb.shape[1] * self.factor)), max(1, round(rgb.shape[0] * self.factor))
        self.rgb = np.asarray(Image.fromarray(rgb).resize(self.size))
        self.explanation = explanation
        width, height = explanation.cell_size
        self.cell_size = width * self.factor, height * self.factor

    def plain(self) -> Image.Image:
        """The image with the box and the reference point, without a map."""
        return self._marked(self.rgb)

    def over(self, kind: str, layer: int, head: int) -> Image.Image:
        """A map over the image, with the attention of its highest cell as text, and the samples of deformable attention."""
        attention = getattr(self.explanation, kind)[layer, head]
        tile = self._marked(overlay(self.rgb, attention, self.cell_size))
        pen = ImageDraw.Draw(tile)
        if self.explanation.places is not None and self.explanation.weights is not None:
            for (x, y), weight in zip(self.explanation.places[layer, head], self.explanation.weights[layer, head], strict=True):
                at, radius = (float(x) * self.factor, float(y) * self.factor), SAMPLE_RADIUS * float(weight) ** 0.5
                pen.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), outline=POINT, width=1)
        pen.text((4, self.size[1] - 16), f"{attention.max():.0%}", PAPER, font(11))
        return tile

    def _marked(self, rgb: np.ndarray) -> Image.Image:
        tile = Image.fromarray(rgb)
        pen = ImageDraw.Draw(tile)
        x0, y0, x1, y1 = (float(v) * self.factor for v in self.explanation.box)
        pen.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=BOX, width=2)
        if self.explanation.reference_point is not None:
            x, y = (float(v) * self.factor for v in self.explanation.reference_point)
            pen.line((x - 5, y, x + 5, y), fill=POINT, width=1)
            pen.line((x, y - 5, x, y + 5), fill=POINT, width=1)
        return tile


def figure(rgb: np.ndarray, explanation: Explanation, layers: Sequence[int]) -> np.ndarray:
    """Draw the maps of some layers as one image, with one column per head and a row per kind of map.

    Parameters
    ----------
    rgb : the image, uint8 [H, W, 3]
    explanation : maps of one detection in the image
    layers : indices of the layers, counted from 0
    """
    depth, heads = explanation.combined.shape[:2]
    kinds = [kind for kind in ROWS if getattr(explanation, kind) is not None]
    tiles = Tiles(rgb, explanation)
    step_x, step_y = tiles.size[0] + GAP, tiles.size[1] + GAP
    left, top = MARGIN + LABELS + step_x, MARGIN + 3 * LINE
    block = LINE + len(kinds) * step_y + GAP
    sheet = Image.new("RGB", (max(NARROWEST, left + heads * step_x + MARGIN), top + len(layers) * block + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    point = "" if explanation.reference_point is None else ", cross: the query's reference point"
    name = explanation.class_name if len(explanation.class_name) <= 40 else f"{explanation.class_name[:39]}…"
    pen.text((MARGIN, MARGIN), f"{name} {explanation.score:.2f}, found by query {explanation.query}", INK, font(18))
    caption = f"Box: the detection{point}. Each map is scaled to its highest cell, whose attention (in %) is printed on it."
    if explanation.places is not None:
        caption += "\nCircles: the places that a head samples; their areas are the weights."
    pen.text((MARGIN, MARGIN + LINE + 2), caption, INK, font(13))
    for row, layer in enumerate(layers):
        y = top + row * block
        pen.text((MARGIN, y), f"layer {layer + 1} of {depth}", INK, font(14))
        for head in range(heads):
            pen.text((left + head * step_x, y), f"head {head + 1}", INK, font(14))
        sheet.paste(tiles.plain(), (left - step_x, y + LINE))
        for line, kind in enumerate(kinds):
            down = y + LINE + line * step_y
            pen.text((MARGIN, down), kind, INK, font(14))
            for head in range(heads):
                sheet.paste(tiles.over(kind, layer, head), (left + head * step_x, down))
    return np.asarray(sheet)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans from matplotlib, which also has Greek and Cyrillic letters, or else Pillow's default font."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.submodule_search_locations:
        file = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(file, size)
    return ImageFont.load_default(size)


def write_explanations(rgb: np.ndarray, explanations: Sequence[Explanation], folder: str | Path) -> Iterator[Path]:
    """Write three files per detection: an image of the last layer's maps, one of all layers' maps, and the arrays.

    Files of an earlier explanation in the folder are removed first.

    Yields
    ------
    for each explanation, in order, the path of the last layer's image, after all three files are written

    Raises
    ------
    RunError : the folder cannot be written
    """
    folder = Path(folder)
    with writing(folder, RunError):
        folder.mkdir(parents=True, exist_ok=True)
        remove_earlier(folder)
        for number, explanation in enumerate(explanations, 1):
            name = f"{number:02d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', explanation.class_name)[:60]}"
            depth = len(explanation.combined)
            save_image(figure(rgb, explanation, [depth - 1]), folder / f"{name}.png")
            save_image(figure(rgb, explanation, range(depth)), folder / f"{name}-layers.png")
            point = explanation.reference_point
            arrays = {**vars(explanation), "reference_point": np.full(2, np.nan, np.float32) if point is None else point}
            np.savez_compressed(folder / f"{name}.npz", **{key: value for key, value in arrays.items() if value is not None})
            yield folder / f"{name}.png"


def remove_earlier(folder: Path) -> None:
    """Remove the files of earlier explanations: arrays that have both their images. Other files are kept."""
    for arrays in folder.glob("[0-9][0-9]*-*.npz"):
        trio = [arrays, arrays.with_suffix(".png"), arrays.with_name(f"{arrays.stem}-layers.png")]
        if all(file.is_file() for file in trio):
            for file in trio:
                file.unlink()
