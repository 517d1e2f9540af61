"""Train a detector of another library for some minutes, on the same images, augmentation and evaluation as ours.

`small_data.py` starts this script, once for each run. The packages bring no weights for these models, so they start from random
weights; only the backbone of `fasterrcnn-lite0` starts from ImageNet, as ours does.

Command: python benchmarks/peers.py ssdlite320 DATA --output FOLDER --minutes 20
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conditional_detr.boxes import cxcywh_to_xyxy
from conditional_detr.config.schema import PreprocessorConfig
from conditional_detr.data.augmentation import Augmentation
from conditional_detr.data.index import SplitIndex, load_split
from conditional_detr.data.loader import EpochBatches, Item, TrainingImages
from conditional_detr.device.threads import set_threads, usable_cores
from conditional_detr.evaluation.coco import CocoResult, coco_evaluate
from conditional_detr.images.decoding import decode
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.training.optim.weight_average import averaged
from conditional_detr.training.setup.auto_config import resolve_auto
from conditional_detr.training.setup.resolve import requested, resolve

BATCH, WARMUP, EVALUATIONS = 8, 0.05, 5  # images per step; fraction of the time; evaluations on valid
ROIS = 128  # regions per image that Faster R-CNN trains on. With the default of 512, a step takes three times as long on a CPU
LOWEST_SCORE = 0.01  # of the detections of Faster R-CNN; COCO's AP needs those with a low score too
Found = tuple[Tensor, Tensor, Tensor]  # boxes xyxy px of the input, scores, labels


class TorchvisionPeer(nn.Module):
    """A detector of torchvision. Its classes are numbered from 1; 0 is the background."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def loss(self, images: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        targets = [{"boxes": b, "labels": k + 1} for b, k in zip(boxes, labels, strict=True)]
        return torch.stack(list(self.detector(images, targets).values())).sum()

    def detect(self, image: Tensor) -> Found:
        (found,) = self.detector([image])
        return found["boxes"], found["scores"], found["labels"] - 1


class TransformersPeer(nn.Module):
    """RT-DETR of transformers, on square images."""

    def __init__(self, detector: nn.Module, side: int) -> None:
        super().__init__()
        self.detector, self.side = detector, side

    def squares(self, images: list[Tensor]) -> Tensor:
        size = (self.side, self.side)
        return torch.cat([nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True) for image in images])

    def loss(self, images: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
        wanted = []
        for image, xyxy, classes in zip(images, boxes, labels, strict=True):
            height, width = image.shape[-2:]
            relative = xyxy / torch.tensor([width, height, width, height])
            low, high = relative[:, :2], relative[:, 2:]
            wanted.append({"class_labels": classes, "boxes": torch.cat([(low + high) / 2, high - low], 1)})
        return torch.as_tensor(self.detector(pixel_values=self.squares(images), labels=wanted).loss)

    def detect(self, image: Tensor) -> Found:
        output = self.detector(pixel_values=self.squares([image]))
        scores, entry = output.logits[0].sigmoid().flatten().topk(100)
        classes = output.logits.shape[-1]
        height, width = image.shape[-2:]
        boxes = cxcywh_to_xyxy(output.pred_boxes[0])[entry // classes] * torch.tensor([width, height, width, height])
        return boxes, scores, entry % classes


def ssdlite320(classes: int, side: int) -> nn.Module:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    return TorchvisionPeer(
        ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes + 1, image_mean=[0.0] * 3, image_std=[1.0] * 3
        )
    )


def fasterrcnn_mobilenet(classes: int, side: int) -> nn.Module:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    return TorchvisionPeer(
        fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, num_classes=classes + 1, min_size=side, max_size=2 * side,
            image_mean=[0.0] * 3, image_std=[1.0] * 3, box_batch_size_per_image=ROIS, box_score_thresh=LOWEST_SCORE,
        )
    )  # fmt: skip


def fasterrcnn_lite0(classes: int, side: int) -> nn.Module:
    """Faster R-CNN with a feature pyramid on the backbone of conditional-detr-tiny, with its ImageNet weights."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import FeaturePyramidNetwork

    from conditional_detr.factory.create import create_model

    class Pyramid(nn.Module):
        out_channels = 128

        def __init__(self) -> None:
            super().__init__()
            import timm

            self.body = timm.create_model("tf_efficientnet_lite0.in1k", features_only=True, out_indices=(2, 3, 4))
            trained = create_model("conditional-detr-tiny", num_classes=classes).backbone.body.state_dict()
            own = self.body.state_dict()
            self.body.load_state_dict({key: trained.get(key, value) for key, value in own.items()})
            self.left = [key for key in own if key not in trained]
            self.pyramid = FeaturePyramidNetwork(self.body.feature_info.channels(), self.out_channels)

        def forward(self, x: Tensor) -> Any:
            return self.pyramid(dict(zip("012", self.body(x), strict=True)))

    anchors = AnchorGenerator(((16, 32), (48, 80), (112, 160)), ((0.5, 1.0, 2.0),) * 3)
    return TorchvisionPeer(
        FasterRCNN(
            Pyramid(), box_head=TwoMLPHead(128 * 7 * 7, 256), box_predictor=FastRCNNPredictor(256, classes + 1), min_size=side,
            max_size=2 * side, rpn_anchor_generator=anchors, image_mean=[0.0] * 3, image_std=[1.0] * 3,
            box_batch_size_per_image=ROIS, box_score_thresh=LOWEST_SCORE,
        )
    )  # fmt: skip


def rtdetr_r18(classes: int, side: int) -> nn.Module:
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

    backbone = RTDetrResNetConfig(
        layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], out_features=["stage2", "stage3", "stage4"]
    )
    config = RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[128, 256, 512], hidden_expansion=0.5, decoder_layers=3,
        num_labels=classes, num_queries=300,
    )  # fmt: skip
    return TransformersPeer(RTDetrForObjectDetection(config), side)


@dataclass(frozen=True)
class Peer:
    """How a peer is built, where its weights start, and its highest learning rate (AdamW)."""

    build: Any
    start: str
    lr: float


PEERS = {
    "ssdlite320": Peer(ssdlite320, "random", 1e-3),
    "fasterrcnn-mobilenet": Peer(fasterrcnn_mobilenet, "random", 5e-4),
    "fasterrcnn-lite0": Peer(fasterrcnn_lite0, "ImageNet", 1e-3),
    "rtdetr-r18": Peer(rtdetr_r18, "random", 3e-4),
}


FIXED_SIDE = {"ssdlite320": 320}  # px; it resizes every image to this square


def unpacked(item: Item) -> tuple[Tensor, Tensor, Tensor]:
    """Image, boxes (xyxy, px) and labels of a training image."""
    height, width = item.image.shape[-2:]
    boxes = cxcywh_to_xyxy(item.target["boxes"]) * torch.tensor([width, height, width, height])
    kept = (boxes[:, 2:] > boxes[:, :2] + 1e-3).all(1)
    return item.image, boxes[kept], item.target["labels"][kept]


def endless(images: TrainingImages, batches: EpochBatches) -> Iterator[list[Item]]:
    while True:
        for keys in batches:
            yield [item for key in keys if isinstance(item := images[key], Item)]
        batches.epoch += 1


@torch.no_grad()
def evaluated(model: nn.Module, index: SplitIndex, names: list[str], preprocessor: Preprocessor) -> CocoResult:
    """Metrics of a peer on a split. `names` are its classes."""
    model.eval()
    category_of = {category.name: category.id for category in index.categories}
    rows = []
    for i in range(len(index)):
        rgb = decode(index.paths[i])
        image = preprocessor(rgb)
        across, down = rgb.shape[-1] / image.shape[-1], rgb.shape[-2] / image.shape[-2]
        boxes, scores, labels = (each.tolist() for each in model.detect(image))  # type: ignore[operator]
        for (x0, y0, x1, y1), score, label in list(zip(boxes, scores, labels, strict=True))[:100]:
            box = [x0 * across, y0 * down, (x1 - x0) * across, (y1 - y0) * down]
            if names[label] in category_of:
                row = {"image_id": int(index.image_ids[i]), "category_id": category_of[names[label]], "bbox": box}
                rows.append(row | {"score": score})
    model.train()
    return coco_evaluate(index.ground_truth(), rows)


def run(given: argparse.Namespace) -> None:
    """Train and evaluate; write `result.json` and `curve.csv`."""
    name, data, output, minutes, seed = given.model, given.data, given.output, given.minutes, given.seed
    peer = PEERS[name]
    highest_lr = given.lr or peer.lr
    start, limit = time.monotonic(), 60 * minutes
    set_threads(given.threads or usable_cores())
    torch.manual_seed(seed)
    train, valid = load_split(data, "train"), load_split(data, "valid")
    if train.labelled is not None:
        raise SystemExit("the peers cannot learn from images in which only some classes are labelled")
    names = [category.name for category in train.categories]
    options = requested({"data": data, "model": "conditional-detr-tiny", "minutes": minutes, "seed": seed})
    config, _ = resolve_auto(resolve(options), set(), train, None)  # the augmentation and image size of ours
    preprocessor = Preprocessor(PreprocessorConfig(imgsz=config.imgsz))
    model = peer.build(len(train.categories), config.imgsz)
    model.train()
    average = averaged(model, config.training.weight_average or 0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=highest_lr, weight_decay=1e-4)
    images = TrainingImages(train, Augmentation(config.training, config.imgsz), preprocessor)
    batches = EpochBatches(len(train), min(BATCH, len(train)), seed)
    curve, seen = ["seconds,epoch,AP,AP50"], 0
    for items in endless(images, batches):
        spent = (time.monotonic() - start) / limit
        if spent >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = highest_lr * min(1, spent / WARMUP) * 0.5 * (1 + math.cos(math.pi * spent))
        loss = model.loss(*(list(each) for each in zip(*map(unpacked, items), strict=True)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0 if name == "rtdetr-r18" else 10.0)
        if torch.isfinite(loss):
            optimizer.step()
            average.update_parameters(model)
        seen += len(items)
        if spent * (EVALUATIONS + 1) >= len(curve):
            metrics = evaluated(average.module, valid, names, preprocessor).metrics
            seconds, epoch = time.monotonic() - start, seen / len(train)
            curve.append(f"{seconds:.0f},{epoch:.1f},{metrics.AP or 0:.4f},{metrics.AP50 or 0:.4f}")
            print(f"loss {float(loss.detach()):.2f}", curve[-1], flush=True)
    result = {
        "start": peer.start,
        "epochs": seen / len(train),
        "seconds": time.monotonic() - start,
        "imgsz": FIXED_SIDE.get(name, config.imgsz),
    }
    split = "test" if (data / "test").exists() else "valid"
    result |= {"split": split} | evaluated(average.module, load_split(data, split), names, preprocessor).to_dict()
    output.mkdir(parents=True, exist_ok=True)
    (output / "curve.csv").write_text("\n".join(curve) + "\n", encoding="utf-8")
    (output / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=PEERS)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--lr", type=float)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
