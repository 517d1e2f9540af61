"""How well a model finds patches: the most confident answer to each patch, and its AP."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from conditional_detr.boxes import cxcywh_to_xyxy
from conditional_detr.data.index import SplitIndex
from conditional_detr.errors import ConditionalDETRError
from conditional_detr.evaluation.coco import CocoMetrics, coco_metrics
from conditional_detr.factory.build import DetectionModel
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.model.detr import DetectionOutput
from conditional_detr.pretraining.forward import pretraining_output
from conditional_detr.pretraining.images import PatchImages
from conditional_detr.training.execution.distributed import Distributed

PATCH = 1  # class index of a patch; 0 is not used, as in the released code


class Found(NamedTuple):
    """The patches of an image and the places where they were found.

    Attributes
    ----------
    position : position of the image in the index
    image : float32 [3, H, W], the normalised image
    patches : uint8 [x, 3, h, w]
    boxes : float32 [x, 4], where the patches were cut out, xyxy relative to the image
    answers : float32 [x, 4], where they were found
    scores : float32 [x]
    """

    position: int
    image: Tensor
    patches: Tensor
    boxes: Tensor
    answers: Tensor
    scores: Tensor


def scores_of(output: DetectionOutput, classification: str) -> Tensor:
    """Score [B, Q] with which a query says that it has found its patch."""
    logits = output.pred_logits
    return logits.sigmoid()[..., PATCH] if classification == "focal" else logits.softmax(-1)[..., PATCH]


@torch.inference_mode()
def found_patches(
    model: DetectionModel, index: SplitIndex, positions: range, imgsz: int, skipped: dict[int, str]
) -> Iterator[Found]:
    """Let a model find patches in images, one image at a time.

    The patches of an image are the same in each call, whatever other images the index has. Images that cannot be used are added
    to `skipped`, with the reason.
    """
    preprocessor, device = Preprocessor(model.preprocessor), next(model.parameters()).device
    images = PatchImages(index, preprocessor, imgsz, model.config.patches, model.config.num_queries)
    each = model.config.num_queries // model.config.patches
    for position in positions:
        try:
            image, target = images.loaded(position, int(index.image_ids[position]))
        except ConditionalDETRError as error:
            skipped[position] = str(error)
            continue
        batch, padding_mask = preprocessor.collate([image])
        mask = None if padding_mask is None else padding_mask.to(device)
        output = pretraining_output(model, batch.to(device), mask, preprocessor.normalise(target["patches"])[None].to(device))
        scores, best = scores_of(output, model.config.classification)[0].view(-1, each).max(1)
        answers = output.pred_boxes[0].view(-1, each, 4)[torch.arange(len(best)), best]
        boxes, answers = (cxcywh_to_xyxy(x.float().cpu()) for x in (target["boxes"], answers))
        yield Found(position, image, target["patches"], boxes, answers, scores.cpu())


def finding_metrics(
    model: DetectionModel, index: SplitIndex, imgsz: int, processes: Distributed
) -> tuple[CocoMetrics, dict[int, str]]:
    """COCO metrics of the answers. Each of the x patches of an image is the only object of its own class.

    Returns
    -------
    the metrics, and the images that cannot be used: position in the index → reason
    """
    model.eval()
    truth: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    skipped: dict[int, str] = {}
    for found in found_patches(model, index, range(processes.rank, len(index), processes.world), imgsz, skipped):
        height, width = index.sizes_hw[found.position].tolist()
        for boxes, into in ((found.boxes, truth), (found.answers, rows)):
            pixels = boxes.numpy() * np.array([width, height, width, height])
            for patch, (x0, y0, x1, y1) in enumerate(pixels.tolist()):
                box = [x0, y0, x1 - x0, y1 - y0]
                into.append(
                    {"image_id": found.position, "category_id": patch, "bbox": box, "score": float(found.scores[patch])}
                )
    truth, rows = processes.gathered(truth), processes.gathered(rows)
    content = {
        "images": [{"id": i} for i in sorted({row["image_id"] for row in truth})],
        "annotations": truth,
        "categories": [{"id": k, "name": f"patch {k + 1}"} for k in range(model.config.patches)],
    }
    return coco_metrics(content, rows), dict(processes.gathered(list(skipped.items())))
