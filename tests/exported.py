"""What tests of exports share."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from conditional_detr.data.index import load_split
from conditional_detr.factory.build import DetectionModel
from conditional_detr.inference.batching import Model
from conditional_detr.inference.detector import Detector


def labelled_by(model: Path, data: Path, output: Path) -> None:
    """Copy a data set; the labels of its validation split become the five best detections of a model in each image.

    The model's own AP is near 1, so whatever an export changes is a drop.
    """
    shutil.copytree(data, output)
    index = load_split(data, "valid")
    content = json.loads((file := output / "valid" / "_annotations.coco.json").read_text())
    content["annotations"] = []
    for image_id, found in zip(index.image_ids, Detector(model)(list(index.paths), conf=0), strict=True):
        for (x0, y0, x1, y1), category in zip(found.xyxy[:5].tolist(), found.data["category_id"][:5].tolist(), strict=True):
            box = {"image_id": int(image_id), "category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
            content["annotations"].append(box | {"id": len(content["annotations"]) + 1, "area": (x1 - x0) * (y1 - y0)})
    file.write_text(json.dumps(content))


def check_equals_model(exported: Model, model: DetectionModel, batch: int, height: int, width: int) -> None:
    """Compare logits and boxes for random images, of which the last is padded in its lower half."""
    images, is_padding = torch.randn(batch, 3, height, width), torch.zeros(batch, height, width, dtype=torch.bool)
    is_padding[-1, height // 2 :] = True
    with torch.no_grad():
        expected = model(images, is_padding)
    logits, boxes = exported(images.numpy(), is_padding.numpy())
    np.testing.assert_allclose(boxes, expected.pred_boxes, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(logits, expected.pred_logits, atol=2e-4, rtol=2e-4)
