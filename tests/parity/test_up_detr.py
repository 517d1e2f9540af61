"""UP-DETR's pre-training, against the paper written out anew on torchvision's backbone and PyTorch's attention.

The reference reads the tensors of a file in the release's format by their names.
"""

import math

import pytest
import torch
import torchvision
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import box_convert, generalized_box_iou
from torchvision.ops.misc import FrozenBatchNorm2d

from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.pretraining.forward import pretraining_output
from conditional_detr.training.objective.criterion import SetCriterion
from conditional_detr.weights.discovery import load_model
from conditional_detr.weights.key_mapping import KeyTable
from conditional_detr.weights.save import save_model
from models import perturbed

DIM, HEADS, QUERIES, PATCHES, LAYERS = 64, 8, 20, 5, 2
EACH = QUERIES // PATCHES


class Reference:
    """The forward pass and the loss of the paper, on a dict of tensors."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state
        net = torchvision.models.resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
        self.body = IntermediateLayerGetter(net, {"layer4": "0"})
        self.body.load_state_dict({k.removeprefix("backbone.0.body."): v for k, v in state.items() if k.startswith("backbone")})

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (DIM,), self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def attention(self, name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor:
        own = {key.removeprefix(f"{name}."): x for key, x in self.state.items() if key.startswith(f"{name}.")}
        options = {"attn_mask": mask, "key_padding_mask": padding, "need_weights": False}
        return functional_call(nn.MultiheadAttention(DIM, HEADS, batch_first=True), own, (q, k, v), options)[0]

    def mlp(self, name: str, x: Tensor, layers: int) -> Tensor:
        for i in range(layers):
            x = self.linear(f"{name}.layers.{i}", x)
            x = x.relu() if i < layers - 1 else x
        return x

    def feedforward(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.linear2", self.linear(f"{name}.linear1", x).relu())

    def __call__(self, images: Tensor, padding: Tensor, patches: Tensor, kept: Tensor) -> dict[str, Tensor]:
        features = self.body(images)["0"]
        mask = F.interpolate(padding[:, None].float(), features.shape[-2:])[:, 0].bool()
        position = sine_position(~mask).flatten(1, 2)
        x = F.conv2d(features, self.state["input_proj.weight"], self.state["input_proj.bias"]).flatten(2).transpose(1, 2)
        padded = mask.flatten(1)
        for i in range(LAYERS):
            name = f"transformer.encoder.layers.{i}"
            y = self.norm(f"{name}.norm1", x)
            x = x + self.attention(f"{name}.self_attn", y + position, y + position, y, None, padded)
            x = x + self.feedforward(name, self.norm(f"{name}.norm2", x))
        memory = self.norm("transformer.encoder.norm", x)
        pooled = self.body(patches.flatten(0, 1))["0"].mean((2, 3)).view(*patches.shape[:2], -1)
        carried = self.linear("patch2query", pooled)[:, torch.arange(QUERIES) // EACH]
        o = carried * kept[..., None] + self.state["query_embed.weight"]
        group = torch.arange(QUERIES) // EACH
        apart = torch.zeros(QUERIES, QUERIES).masked_fill(group[:, None] != group[None], -math.inf)
        t = torch.zeros(len(images), QUERIES, DIM)
        logits, boxes, found = [], [], []
        for i in range(LAYERS):
            name = f"transformer.decoder.layers.{i}"
            y = self.norm(f"{name}.norm1", t)
            t = t + self.attention(f"{name}.self_attn", y + o, y + o, y, apart, None)
            y = self.norm(f"{name}.norm2", t)
            t = t + self.attention(f"{name}.multihead_attn", y + o, memory + position, memory, None, padded)
            t = t + self.feedforward(name, self.norm(f"{name}.norm3", t))
            out = self.norm("transformer.decoder.norm", t)
            logits.append(self.linear("class_embed", out))
            boxes.append(self.mlp("bbox_embed", out, 3).sigmoid())
            found.append(self.mlp("feature_align", out, 2))
        return {"logits": torch.stack(logits), "boxes": torch.stack(boxes), "features": torch.stack(found), "pooled": pooled}

    def loss(self, output: dict[str, Tensor], places: list[Tensor]) -> Tensor:
        total, count = torch.zeros(()), sum(map(len, places))
        for logits, boxes, features in zip(output["logits"], output["boxes"], output["features"], strict=True):
            classes = torch.full(logits.shape[:2], 2)
            for b, wanted in enumerate(places):
                cost = 5 * torch.cdist(boxes[b], wanted, p=1) - 2 * giou(boxes[b], wanted) - logits[b].softmax(-1)[:, 1:2]
                query, patch = map(torch.as_tensor, linear_sum_assignment(cost.detach().numpy()))
                classes[b, query] = 1
                total = total + 5 * (boxes[b, query] - wanted[patch]).abs().sum() / count
                total = total + 2 * (1 - giou(boxes[b, query], wanted[patch]).diag()).sum() / count
                pair = (F.normalize(features[b, query], dim=-1), F.normalize(output["pooled"][b, patch].detach(), dim=-1))
                total = total + (pair[0] - pair[1]).square().sum() / count
            total = total + F.cross_entropy(logits.transpose(1, 2), classes, torch.tensor([1.0, 1.0, 0.1]))
        return total


def giou(a: Tensor, b: Tensor) -> Tensor:
    return generalized_box_iou(box_convert(a, "cxcywh", "xyxy"), box_convert(b, "cxcywh", "xyxy"))


def sine_position(valid: Tensor) -> Tensor:
    """DETR's position embedding, y first: [B, H, W, D]."""
    rate = 10000 ** (2 * (torch.arange(DIM // 2) // 2) / (DIM // 2))
    halves = []
    for axis in (1, 2):
        steps = valid.cumsum(axis).float()
        angle = 2 * math.pi * steps / (steps.narrow(axis, steps.shape[axis] - 1, 1) + 1e-6)
        angle = angle[..., None] / rate
        halves.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2))
    return torch.cat(halves, -1)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> DetectionModel:
    few = {"encoder_layers": LAYERS, "decoder_layers": LAYERS, "hidden_dim": DIM, "feedforward_dim": 96}
    torch.manual_seed(0)
    model = create_model("up-detr-r18", 2, pretrained_backbone=False, patches=PATCHES, num_queries=QUERIES, dropout=0.0, **few)
    return perturbed(model)


def test_outputs_losses_and_gradients_are_the_papers(model, tmp_path):
    save_model(model, tmp_path / "pre", format="official")
    state = torch.load(tmp_path / "pre" / "model.pth", weights_only=True)["model"]
    leaves = {key: value.clone().requires_grad_(not key.startswith("backbone")) for key, value in state.items()}
    images, patches = torch.randn(2, 3, 96, 128), torch.randn(2, PATCHES, 3, 64, 64)
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, :, 80:] = padding[0, 64:] = True
    kept = torch.rand(2, QUERIES) < 0.8
    places = [torch.rand(PATCHES, 4) * 0.3 + 0.3 for _ in range(2)]
    reference = Reference(leaves)
    expected = reference(images, padding, patches, kept)

    ours = load_model(tmp_path / "pre").train()  # with `kept` given, only dropout differs in training, and it is 0 here
    ours.backbone.requires_grad_(False)
    output = pretraining_output(ours, images, padding, patches, kept=kept)
    pairs = {
        "logits": (output.pred_logits, output.aux_logits), "boxes": (output.pred_boxes, output.aux_boxes),
        "features": (output.pred_features, output.aux_features),
    }  # fmt: skip
    for key, (last, earlier) in pairs.items():
        torch.testing.assert_close(torch.cat([earlier, last[None]]), expected[key], atol=5e-5, rtol=5e-5)
    torch.testing.assert_close(output.patch_features, expected["pooled"], atol=5e-5, rtol=5e-5)

    targets = [{"labels": torch.ones(PATCHES, dtype=torch.int64), "boxes": boxes} for boxes in places]
    loss, theirs = SetCriterion(2, "softmax")(output, targets)["loss"], reference.loss(expected, places)
    torch.testing.assert_close(loss, theirs, atol=5e-5, rtol=5e-5)
    loss.backward()
    theirs.backward()
    table = KeyTable("official", ours.config.cross_attention, LAYERS)
    gradients = {key: p.grad for key, p in ours.named_parameters() if p.grad is not None}
    for key, gradient in table.to_foreign(gradients).items():
        torch.testing.assert_close(gradient, leaves[key].grad, atol=5e-5, rtol=1e-3)
    assert len(gradients) == sum(1 for p in ours.parameters() if p.requires_grad)
