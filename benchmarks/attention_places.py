"""Measure where the spatial attention of each head lies relative to the detected box, over a folder of images.

For every decoder layer two numbers are printed. The first is the distance from the peak of a head's spatial attention map (its
highest cell) to the nearest side of the box, in box sizes: 0 is on a side, 0.5 is the middle of the box. The second is the
fraction of the attention inside the box. Next to each is the value expected by chance: for a random cell of the image, and for
attention spread evenly over the image. --heads also prints the mean position of each head's peak in the box: −1 is the left or
upper side, 0 the middle, +1 the right or lower side.

Command: python benchmarks/attention_places.py FOLDER_OF_IMAGES SOURCE…        Time: about one second per five images.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from conditional_detr.explaining.maps import Explanation, explain_image
from conditional_detr.images.decoding import decode
from conditional_detr.inference.predict import find_images
from conditional_detr.weights.discovery import load_model


@dataclass(frozen=True)
class Place:
    """Measurements of one detection, for L layers and H heads.

    Attributes
    ----------
    peaks : [L, H, 2], offset (x, y) of the highest cell from the middle of the box, in half box sizes
    distances : [L, H], distance of the highest cell from the nearest side of the box, in box sizes
    inside : [L, H], fraction of each attention map inside the box
    chance_distance, chance_inside : expected values for attention that is independent of the box
    """

    peaks: np.ndarray
    distances: np.ndarray
    inside: np.ndarray
    chance_distance: float
    chance_inside: float


def to_nearest_side(points: np.ndarray) -> np.ndarray:
    """Distance of points from the outline of the box.

    Parameters
    ----------
    points : [..., 2], offsets from the middle of the box, in half box sizes

    Returns
    -------
    distances [...], in box sizes
    """
    beyond = np.abs(points) - 1
    outside = np.linalg.norm(beyond.clip(0), axis=-1)
    return np.where(outside > 0, outside, -beyond.max(-1)) / 2


def place(explanation: Explanation, size_hw: tuple[int, int]) -> Place:
    """Measure the spatial attention maps of one detection in an image of size (height, width) px."""
    x0, y0, x1, y1 = explanation.box
    assert explanation.spatial is not None
    maps, (width, height) = explanation.spatial, explanation.cell_size
    rows, columns = maps.shape[2:]
    x, y = (np.arange(columns) + 0.5) * width, (np.arange(rows) + 0.5) * height
    middle, half = np.array([x0 + x1, y0 + y1]) / 2, np.array([x1 - x0, y1 - y0]) / 2
    cells = (np.stack(np.meshgrid(x, y), -1) - middle) / half
    in_image = (x < size_hw[1]) & (y < size_hw[0])[:, None]  # the other cells are padding
    peaks = cells.reshape(-1, 2)[maps.reshape(*maps.shape[:2], -1).argmax(-1)]
    # Fraction of each row and column of cells that the box covers: cells at its edge count in part.
    cover = [
        (np.minimum(at + cell / 2, high) - np.maximum(at - cell / 2, low)).clip(0) / cell
        for at, cell, low, high in ((y, height, y0, y1), (x, width, x0, x1))
    ]
    return Place(
        peaks,
        to_nearest_side(peaks),
        np.einsum("lhyx,y,x->lh", maps, *cover),
        float(to_nearest_side(cells[in_image]).mean()),
        float(np.outer(*cover)[in_image].mean()),
    )


def places_of(source: str, images: list[str], conf: float) -> list[Place]:
    """Measure all detections with a score of at least `conf` in some images."""
    model = load_model(source)
    found = []
    for file in images:
        rgb = decode(file)
        found += [place(e, (rgb.shape[-2], rgb.shape[-1])) for e in explain_image(model, rgb, conf)]
    if not found:
        raise SystemExit(f"{source}: no detection has a score of {conf} or more")
    return found


def by_layer(found: list[Place]) -> list[str]:
    """Table rows, one per layer: mean over heads and detections, and the range of the heads' means."""
    chance, covered = (np.mean([getattr(p, name) for p in found]) for name in ("chance_distance", "chance_inside"))
    distances, inside = (np.mean([getattr(p, name) for p in found], axis=0) for name in ("distances", "inside"))
    return [
        f"| {layer + 1} | {far.mean():.2f} ({far.min():.2f}–{far.max():.2f}) | {chance:.2f} "
        f"| {share.mean():.0%} ({share.min():.0%}–{share.max():.0%}) | {covered:.0%} |"
        for layer, (far, share) in enumerate(zip(distances, inside, strict=True))
    ]


def by_head(found: list[Place]) -> list[str]:
    """Table rows, one per head: mean position of the highest cell and its standard deviation over detections."""
    peaks, inside = np.stack([p.peaks for p in found]), np.stack([p.inside for p in found])
    rows = []
    for layer in range(peaks.shape[1]):
        for head in range(peaks.shape[2]):
            (x, y), (dx, dy) = (f(peaks[:, layer, head], axis=0) for f in (np.mean, np.std))
            share = inside[:, layer, head].mean()
            rows.append(f"| {layer + 1} | {head + 1} | {x:+.2f} ± {dx:.2f} | {y:+.2f} ± {dy:.2f} | {share:.0%} |")
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("sources", nargs="+", help="runs, checkpoints or model names")
    parser.add_argument("--conf", type=float, default=0.3, help="lowest score of a detection (default: 0.3)")
    parser.add_argument("--heads", action="store_true", help="also print a table with one row per head")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for source in options.sources:
        found = places_of(source, find_images([str(options.images)]), options.conf)
        print(f"{source}: {len(found)} detections with a score of {options.conf} or more\n")
        print("| layer | peak to side, box sizes (range over heads) | chance | inside the box (range over heads) | chance |")
        print("|---|---|---|---|---|", *by_layer(found), "", sep="\n")
        if options.heads:
            print("| layer | head | peak, horizontal | peak, vertical | inside the box |")
            print("|---|---|---|---|---|", *by_head(found), "", sep="\n")


if __name__ == "__main__":
    main()
