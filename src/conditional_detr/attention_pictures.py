"""Maps of attention over the picture, as the paper's figure shows them."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from conditional_detr.attention_maps import Explanation
from conditional_detr.errors import RunError
from conditional_detr.inference.drawing import save_picture

TILE = 168  # longer side of one map, px
GAP, MARGIN, LINE = 6, 12, 22
ROWS = ("spatial", "content", "combined")
LABELS = 84
BOX, POINT, INK, PAPER = (0, 230, 118), (255, 255, 255), (30, 30, 30), (255, 255, 255)
GLOW = 0.75  # how much of the colour covers the picture where a map is highest


def heat(rgb: np.ndarray, attention: np.ndarray, cell_size: tuple[float, float]) -> np.ndarray:
    """A map over a dimmed picture; its highest cell is brightest.

    Parameters
    ----------
    rgb : uint8 [H, W, 3]
    attention : [h, w]
    cell_size : width and height of a cell in pixels of the picture; cells may reach over its right and lower border
    """
    height, width = rgb.shape[:2]
    rows, columns = attention.shape
    # The centre of cell i lies at (i + 0.5) cells; between centres the map is interpolated.
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


def tile(rgb: np.ndarray, attention: np.ndarray, explanation: Explanation) -> Image.Image:
    """One map with the box and the reference point, its longer side `TILE` px."""
    factor = TILE / max(rgb.shape[:2])
    size = max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor))
    small = np.asarray(Image.fromarray(rgb).resize(size))
    width, height = explanation.cell_size
    picture = Image.fromarray(heat(small, attention, (width * factor, height * factor)))
    pen = ImageDraw.Draw(picture)
    x0, y0, x1, y1 = (float(v) * factor for v in explanation.box)
    pen.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=BOX, width=2)
    if explanation.reference_point is not None:
        x, y = (float(v) * factor for v in explanation.reference_point)
        pen.line((x - 5, y, x + 5, y), fill=POINT, width=1)
        pen.line((x, y - 5, x, y + 5), fill=POINT, width=1)
    return picture


def figure(rgb: np.ndarray, explanation: Explanation, layers: Sequence[int]) -> np.ndarray:
    """The maps of some layers as a picture: a column a head, and three rows a layer.

    Parameters
    ----------
    rgb : the picture, uint8 [H, W, 3]
    explanation : of one detection in it
    layers : which layers, counted from 0
    """
    heads, depth = explanation.spatial.shape[1], explanation.spatial.shape[0]
    sample = tile(rgb, explanation.spatial[0, 0], explanation)
    step_x, step_y = sample.width + GAP, sample.height + GAP
    block = LINE + len(ROWS) * step_y + GAP
    top = MARGIN + 3 * LINE
    sheet = Image.new("RGB", (2 * MARGIN + LABELS + heads * step_x, top + len(layers) * block + MARGIN), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    point = "" if explanation.reference_point is None else ", cross: the query's reference point"
    title = f"{explanation.class_name} {explanation.score:.2f}, found by query {explanation.query}"
    pen.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(18))
    pen.text((MARGIN, MARGIN + LINE + 2), f"box: the detection{point}; each map is scaled to its own maximum", INK, font)
    for row, layer in enumerate(layers):
        y = top + row * block
        pen.text((MARGIN, y - 2), f"layer {layer + 1} of {depth}", INK, font)
        for head in range(heads):
            pen.text((MARGIN + LABELS + head * step_x, y - 2), f"head {head + 1}", INK, font)
        for line, kind in enumerate(ROWS):
            down = y + LINE + line * step_y
            pen.text((MARGIN, down), kind, INK, font)
            for head in range(heads):
                maps = getattr(explanation, kind)[layer]
                sheet.paste(tile(rgb, maps[head], explanation), (MARGIN + LABELS + head * step_x, down))
    return np.asarray(sheet)


def write_explanations(rgb: np.ndarray, explanations: Sequence[Explanation], folder: str | Path) -> list[Path]:
    """For each detection the last layer's maps, those of all layers, and the arrays.

    Returns
    -------
    the pictures of the last layers, in the order of the explanations

    Raises
    ------
    RunError : the folder cannot be written
    """
    folder = Path(folder)
    pictures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, explanation in enumerate(explanations, 1):
            name = f"{number:02d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', explanation.class_name)}"
            depth = len(explanation.spatial)
            pictures.append(folder / f"{name}.png")
            save_picture(figure(rgb, explanation, [depth - 1]), pictures[-1])
            save_picture(figure(rgb, explanation, range(depth)), folder / f"{name}-layers.png")
            point = explanation.reference_point
            np.savez_compressed(
                folder / f"{name}.npz",
                spatial=explanation.spatial,
                content=explanation.content,
                combined=explanation.combined,
                box=explanation.box,
                reference_point=np.full(2, np.nan, dtype=np.float32) if point is None else point,
                cell_size=np.array(explanation.cell_size),
                score=explanation.score,
                class_id=explanation.class_id,
                class_name=explanation.class_name,
                query=explanation.query,
            )
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from None
    return pictures
