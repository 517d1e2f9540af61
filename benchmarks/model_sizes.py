"""Print parameters and multiply-adds of every system of the paper next to the paper's numbers, as in docs/models.md.

The paper's multiply-adds are means over COCO images of many sizes. PyTorch counts them here at 800 x 1121 px, because DETR-R50
then has the 86 G of the paper. The samples of deformable attention are not counted. The models are on the meta device, so
nothing is computed.

Command: python benchmarks/model_sizes.py        Time: about a minute on 1 core.
"""

import torch

from conditional_detr.config.presets import PRESETS
from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.factory.build import DetectionModel
from conditional_detr.inference.model_cost import multiply_adds

HEIGHT, WIDTH = 800, 1121
PAPER = {  # Conditional DETR, table 1: parameters in millions, multiply-adds in billions (the paper's GFLOPs)
    "detr-r50": (41, 86),
    "conditional-detr-r50": (44, 90),
    "detr-dc5-r50": (41, 187),
    "conditional-detr-dc5-r50": (44, 195),
    "detr-r101": (60, 152),
    "conditional-detr-r101": (63, 156),
    "detr-dc5-r101": (60, 253),
    "conditional-detr-dc5-r101": (63, 262),
    "deformable-detr-ss-r50": (34, 78),
    "deformable-detr-ss-dc5-r50": (34, 128),
    "up-detr-r50": (41, 86),
}
OURS_ALONE = ("conditional-detr-r18", "detr-r18")


def main() -> None:
    """Print the table."""
    print("| name | parameters, M | paper | difference | G multiply-adds | paper | difference |")
    print("|---|---|---|---|---|---|---|")
    for name in (*PAPER, *OURS_ALONE):
        with torch.device("meta"):
            model = DetectionModel(PRESETS[name].model, PreprocessorConfig()).eval()
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        work = multiply_adds(model, HEIGHT, WIDTH) / 1e9
        cells = [f"`{name}`"]
        for ours, paper in zip((millions, work), PAPER.get(name, (None, None)), strict=True):
            known = [str(paper), f"{100 * (ours / paper - 1):+.1f} %"] if paper else ["", ""]
            cells += [f"{ours:.1f}", *known]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
