"""Where each head's spatial attention lies in the box of its detection, over the pictures of a split.

Printed for every layer and head: the mean position of the map's highest cell in the box (−1 is its left or upper side, 0 its
middle, +1 its right or lower side) with the standard deviation between detections, and how much of the map lies inside the
box, beside the share of the picture that the box covers (what a map without aim would have inside).

Command: python benchmarks/attention_places.py SOURCE FOLDER_OF_PICTURES        Time: about a second for five pictures.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from conditional_detr.attention_maps import Explanation, explain_picture
from conditional_detr.inference.predict import find_pictures
from conditional_detr.preprocessing import decode
from conditional_detr.weights.source import load_model


def places(explanation: Explanation, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, float]:
    """Peaks [L, H, 2] in half box sizes from the middle, mass inside the box [L, H], and the box's share of the picture."""
    x0, y0, x1, y1 = explanation.box
    maps = explanation.spatial
    rows, columns = maps.shape[2:]
    x = (np.arange(columns) + 0.5) * explanation.cell_size[0]
    y = (np.arange(rows) + 0.5) * explanation.cell_size[1]
    peak = maps.reshape(*maps.shape[:2], -1).argmax(-1)
    middle, half = np.array([x0 + x1, y0 + y1]) / 2, np.array([x1 - x0, y1 - y0]) / 2
    peaks = (np.stack([x[peak % columns], y[peak // columns]], -1) - middle) / half
    # A cell counts by the part of it that the box covers.
    cover = [
        (np.minimum(at + cell / 2, high) - np.maximum(at - cell / 2, low)).clip(0) / cell
        for at, cell, low, high in ((y, explanation.cell_size[1], y0, y1), (x, explanation.cell_size[0], x0, x1))
    ]
    inside = np.einsum("lhyx,y,x->lh", maps, *cover)
    return peaks, inside, float(np.prod(2 * half)) / (size_hw[0] * size_hw[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--conf", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.source)
    found = []
    for file in find_pictures([str(options.pictures)]):
        rgb = decode(file)
        found += [places(e, (rgb.shape[-2], rgb.shape[-1])) for e in explain_picture(model, rgb, options.conf)]
    if not found:
        raise SystemExit(f"nothing was found with a score of {options.conf} or more")
    peaks, inside = np.stack([f[0] for f in found]), np.stack([f[1] for f in found])
    covered = np.mean([f[2] for f in found])
    print(f"{len(found)} detections of score {options.conf} or more; a box covers {covered:.1%} of a picture")
    print("| layer | head | highest cell, across | down | inside the box |")
    print("|---|---|---|---|---|")
    for layer in range(peaks.shape[1]):
        for head in range(peaks.shape[2]):
            (x, y), (dx, dy) = (f(peaks[:, layer, head], axis=0) for f in (np.mean, np.std))
            share = inside[:, layer, head].mean()
            print(f"| {layer + 1} | {head + 1} | {x:+.2f} ± {dx:.2f} | {y:+.2f} ± {dy:.2f} | {share:.0%} |")


if __name__ == "__main__":
    main()
