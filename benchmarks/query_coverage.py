"""Measure on how many objects queries start, how many the last layer finds, and whether the layers improve the boxes.

For each object, the query counts whose box in the last layer overlaps it most, whatever its score. Printed are the fraction of
objects with an IoU above 0.5 and the median IoU, for the reference boxes and for the boxes of each decoder layer. Cells beside
one with a higher objectness lose --penalty logits before the best ones are chosen; 0 switches this off.

Command: python benchmarks/query_coverage.py DATA SOURCE --split test --penalty 0 2        Time: about ten images per second.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

from conditional_detr.boxes import cxcywh_to_xyxy, iou
from conditional_detr.data.index import SplitIndex, load_split
from conditional_detr.factory.build import DetectionModel
from conditional_detr.images.decoding import decode
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.model import query_init
from conditional_detr.weights.discovery import load_model

FOUND = 0.5  # IoU of a box that finds an object


@torch.inference_mode()
def overlaps(model: DetectionModel, data: SplitIndex) -> Iterator[tuple[str, str, float]]:
    """(class, stage, IoU) of each object in the references and in each decoder layer."""
    prepare = Preprocessor(model.preprocessor)
    for i, file in enumerate(data.paths):
        boxes, labels = data.objects(i)
        image = decode(file)
        height, width = image.shape[-2:]
        objects = torch.from_numpy(boxes) / torch.tensor([width, height, width, height])
        batch, is_padding = prepare.collate([prepare(image)])
        memory = model.encode(batch, is_padding)
        queries = model.reference_points(model.object_query, memory).queries
        output = model.predicted(model.decoder(queries, memory, model.box_head.refine), memory, aux=True)
        stages = {f"layer {n + 1}": layer[0] for n, layer in enumerate(output.all_layers()["boxes"])}
        reference = queries.reference
        if reference.shape[-1] == 4:
            stages = {"references": reference[0], **stages}
        *_, last = stages.values()
        best = iou(objects[:, None], cxcywh_to_xyxy(last)[None]).argmax(1) if len(objects) else []
        for stage, found in stages.items():
            for label, overlap in zip(labels, iou(objects, cxcywh_to_xyxy(found[best])), strict=True):
                yield data.categories[label].name, stage, float(overlap)


def main() -> None:
    """Print a table for each penalty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set")
    parser.add_argument("source", help="run, checkpoint or model name")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--penalty", type=float, nargs="+", default=[query_init.NEIGHBOUR_PENALTY], help="in logits")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, data = load_model(options.source).eval(), load_split(options.data, options.split)
    for penalty in options.penalty:
        query_init.NEIGHBOUR_PENALTY = penalty
        found = defaultdict[tuple[str, str], list[float]](list)
        for name, stage, overlap in overlaps(model, data):
            found[name, stage].append(overlap)
        print(f"penalty {penalty:g}\n\n| class | objects | boxes | IoU above {FOUND} | median IoU |\n|---|---|---|---|---|")
        for (name, stage), values in sorted(found.items()):
            share, median = sum(v > FOUND for v in values) / len(values), float(torch.tensor(values).median())
            print(f"| {name} | {len(values)} | {stage} | {share:.3f} | {median:.3f} |")
        print()


if __name__ == "__main__":
    main()
