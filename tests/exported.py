"""What tests of exports share."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from conditional_detr.data.index import load_split
from conditional_detr.exporting import graph
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.inference.batching import Model
from conditional_detr.inference.detector import Detector
from conditional_detr.inference.engines import INPUTS
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.save import save_model
from models import perturbed, small

SYSTEMS = {
    "deformable-detr-ss-tiny": {},
    "up-detr-tiny": {},
    "conditional-detr-tiny": {
        "reference_points": "encoder_boxes",
        "box_refinement": True,
        "cross_attention": "box_conditional",
    },
    "conditional-detr-ms-tiny": {"box_refinement": True, "cross_attention": "box_conditional"},
}
SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from conditional_detr.data.index import load_split
from conditional_detr.exporting.export import Exporter
from conditional_detr.weights.discovery import load_model
folder, train, valid = Path(sys.argv[1]), *(load_split(sys.argv[2], split) for split in ("train", "valid"))
for format in ("onnx", "openvino"):
    exporter = Exporter(load_model(folder / "model"), format, valid, train.paths)
    for precision in sys.argv[3:]:
        exporter.export(folder / f"{format}-{precision}", precision, max_drop=1.0)
"""


def export_system(name: str, data: Path, folder: Path, *precisions: str) -> None:
    """Write a small model of a system as `model`, and its exports in both formats: `onnx-fp32` and so on.

    In a process of its own: shape checks would be recorded.
    """
    few = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "hidden_dim": 64, **SYSTEMS[name]}
    torch.manual_seed(0)
    model = create_model(name, 10, **few).eval()  # int8 needs a backbone with the activations of a trained one
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            parameter.add_(0.0 if part.startswith("backbone.") else 0.05 * torch.randn_like(parameter))
        model.class_head.bias[:10] += 4  # some boxes with a score that counts as sure
        if model.config.reference_points == "encoder_boxes":
            model.reference_points.scorer.last.weight *= 10  # cells differ clearly, as after training
    model.preprocessor = model.preprocessor.model_copy(update={"imgsz": 64})
    model.class_names, model.category_ids = [str(i) for i in range(10)], list(range(1, 11))
    save_model(model, folder / "model")
    labelled_by(folder / "model", data, folder / "data")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, folder, folder / "data", *precisions]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def check_proof(folder: Path, kind: str) -> None:
    """Check what the proof of an export says. Cells that choose the places are near-equal, and change places in bf16."""
    proof = json.loads((folder / kind / "proof.json").read_text())
    chooses = load_model(folder / "model").config.reference_points == "encoder_boxes"
    assert proof["AP"]["original"] > (0.3 if chooses else 0.5)
    boxes, precision = proof["boxes"], proof["precision"]
    assert boxes["original"] > 10
    assert boxes["rank_difference"] < {"fp32": 1e-4, "bf16": 0.2 if chooses else 0.05, "int8": 0.2}[precision]
    if precision != "int8":  # random weights have no margin between objects and background, which integers need
        assert boxes["matched"] >= {"fp32": 1, "bf16": 0.8 if chooses else 0.9}[precision] * boxes["original"]
        assert abs(proof["AP"]["drop"]) < {"fp32": 1e-9, "bf16": 0.1}[precision]


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


def check_oldest_operator_set(name: str) -> None:
    """Export a small model of a system with operator set 16, and compare the results in ONNX Runtime."""
    import onnxruntime

    model = perturbed(small(name, 3, hidden_dim=32, encoder_layers=1, decoder_layers=2))
    proto = graph.to_onnx(model, graph.traced(model), 16)
    assert [entry.version for entry in proto.opset_import] == [16]
    assert proto.ir_version == 8
    assert "LayerNormalization" not in {node.op_type for node in proto.graph.node}  # which operator set 17 introduced
    images, padding_mask = torch.randn(2, 3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.bool)
    padding_mask[1, 64:] = True
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, dict(zip(INPUTS, (images.numpy(), padding_mask.numpy()), strict=True)))
    with torch.no_grad():
        output = model(images, padding_mask)
    np.testing.assert_allclose(found[0], output.pred_logits, atol=1e-4)
    np.testing.assert_allclose(found[1], output.pred_boxes, atol=1e-5)
