"""The reference releases' names, told a second time: transformers' weights under them load as the same model.

The table here is written from the releases' own modules (`TransformerDecoderLayer` and the like), not from the library's.
"""

import re

import pytest
import torch
from oracle import build_oracle, ours_like
from safetensors.torch import load_file
from torch import Tensor

from conditional_detr.weights.discovery import load_model

RENAMES = [  # of what transformers writes
    (r"^model\.backbone\.conv_encoder\.model\.", "backbone.0.body."),
    (r"^model\.input_projection\.", "input_proj."),
    (r"^model\.query_position_embeddings\.", "query_embed."),
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^bbox_predictor\.", "bbox_embed."),
    (r"^model\.decoder\.layernorm\.", "transformer.decoder.norm."),
    (r"^model\.(encoder|decoder)\.", r"transformer.\1."),
    (r"\.fc1\.", ".linear1."),
    (r"\.fc2\.", ".linear2."),
    (r"\.self_attn_layer_norm\.", ".norm1."),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm2."),
    (r"\.encoder_attn_layer_norm\.", ".norm2."),
    (r"(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norm3."),
]


def as_released(state: dict[str, Tensor], cross: str) -> dict[str, Tensor]:
    renames = [*RENAMES, (r"\.encoder_attn\.", f".{cross}.")]
    out = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    joint: dict[str, Tensor] = {}
    for name in list(out):
        if m := re.fullmatch(r"(.*attn)\.q_proj\.(weight|bias)", name):
            parts = [out.pop(f"{m[1]}.{letter}_proj.{m[2]}") for letter in "qkv"]
            joint[f"{m[1]}.in_proj_{m[2]}"] = torch.cat(parts)
    return out | joint


@pytest.mark.parametrize(("kind", "cross"), [("conditional", "cross_attn"), ("detr", "multihead_attn")])
def test_transformers_weights_under_the_releases_names_are_the_same_model(kind: str, cross: str, tmp_path):
    oracle = build_oracle(kind, encoder_layers=2, decoder_layers=2)
    oracle.save_pretrained(tmp_path)  # a file has the names that the table above begins with
    ours = ours_like(oracle)
    released = as_released(load_file(tmp_path / "model.safetensors"), cross)
    torch.save({"model": released}, tmp_path / "released.pth")
    state = load_model(tmp_path / "released.pth").state_dict()
    assert all(value.equal(state[key]) for key, value in ours.state_dict().items())
