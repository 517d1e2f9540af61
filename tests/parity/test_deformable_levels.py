"""Deformable DETR on several levels and with refined boxes, against transformers' model with the same weights.

Neither form can be read from a folder, so the weights are handed over by name here.
"""

import pytest
import torch
from oracle import build_oracle, random_images
from torch import Tensor

from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.weights.foreign_limits import backbone_of
from conditional_detr.weights.huggingface import BACKBONE
from conditional_detr.weights.key_mapping import VERSION_5, KeyTable, renamed

LAYERS = 3
STRIDES = {1: [32], 3: [8, 16, 32], 4: [8, 16, 32, 64]}


def ours_like(state: dict[str, Tensor], levels: int, refined: bool, backbone: str) -> DetectionModel:
    parts = {"encoder_layers": 2, "decoder_layers": LAYERS, "strides": STRIDES[levels], "box_refinement": refined}
    ours = create_model("deformable-detr-ss-r50", 7, pretrained_backbone=False, backbone=backbone, **parts)
    table, own = KeyTable("huggingface", "deformable", LAYERS), ours.state_dict()
    loaded: dict[str, Tensor] = {}
    for key in own:
        if key.startswith("input_projection.levels."):
            number, part, kind = key.split(".")[2:]
            loaded[key] = state[f"model.input_proj.{number}.{'01'[part == 'norm']}.{kind}"]
        elif key.startswith("box_head.layers."):
            loaded[key] = state[key.replace("box_head.layers", "bbox_embed").replace(".mlp", "")]
    rest = {key: value for key, value in own.items() if key not in loaded}
    ours.load_state_dict(loaded | table.from_foreign(state, rest))
    return ours.eval()


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("levels", STRIDES)
def test_logits_and_boxes_of_a_padded_batch(levels: int, refined: bool):
    oracle = build_oracle(
        "deformable", encoder_layers=2, decoder_layers=LAYERS, num_feature_levels=levels, with_box_refine=refined
    )
    for head in oracle.class_embed[1:]:  # in this library all layers share one class head
        head.load_state_dict(oracle.class_embed[0].state_dict())
    state = renamed(oracle.state_dict(), VERSION_5, [])
    ours = ours_like(state, levels, refined, f"{backbone_of(state, BACKBONE, oracle)}.tv_in1k")
    images, is_padding = random_images()
    with torch.no_grad():
        theirs, output = oracle(images, (~is_padding).long()), ours(images, is_padding, aux=True)
    assert theirs.logits.std(1).mean() > 0.02
    torch.testing.assert_close(output.pred_logits, theirs.logits, atol=2e-4, rtol=0)
    torch.testing.assert_close(output.pred_boxes, theirs.pred_boxes, atol=2e-5, rtol=0)
