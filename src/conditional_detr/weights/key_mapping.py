"""Tensor names of this library and of foreign checkpoints, in tables that are used in both directions."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

# Name in this library: (name in the reference releases of Conditional DETR and DETR, name in transformers). A number in
# brackets means that the tensor is this chunk of a joint projection of query, key and value.
ONCE = {
    "backbone.body.": ("backbone.0.body.", "model.backbone.conv_encoder.model."),
    "input_projection.": ("input_proj.", "model.input_projection."),
    "object_query": ("query_embed.weight", "model.query_position_embeddings.weight"),
    "reference_points.mlp.": ("transformer.decoder.ref_point_head.", "model.decoder.ref_point_head."),
    "decoder.spatial_query.lambda_q.mlp.": ("transformer.decoder.query_scale.", "model.decoder.query_scale."),
    "decoder.norm.": ("transformer.decoder.norm.", "model.decoder.layernorm."),
    "class_head.": ("class_embed.", "class_labels_classifier."),
    "box_head.mlp.": ("bbox_embed.", "bbox_predictor."),
}
EVERY_LAYER = {
    "self_attention.out.": ("self_attn.out_proj.", "self_attn.out_proj."),
    "feedforward.linear1.": ("linear1.", "fc1."),
    "feedforward.linear2.": ("linear2.", "fc2."),
}
ADDITIVE_SELF_ATTENTION = {
    "self_attention.q.": ("self_attn.in_proj_[0]", "self_attn.q_proj."),
    "self_attention.k.": ("self_attn.in_proj_[1]", "self_attn.k_proj."),
    "self_attention.v.": ("self_attn.in_proj_[2]", "self_attn.v_proj."),
}
ENCODER = {
    **EVERY_LAYER,
    **ADDITIVE_SELF_ATTENTION,
    "norm.": ("norm1.", "self_attn_layer_norm."),
    "feedforward.norm.": ("norm2.", "final_layer_norm."),
}
EVERY_DECODER_LAYER = {
    **EVERY_LAYER,
    "norm1.": ("norm1.", "self_attn_layer_norm."),
    "norm2.": ("norm2.", "encoder_attn_layer_norm."),
    "feedforward.norm.": ("norm3.", "final_layer_norm."),
}
DECODERS = {
    "conditional": {
        **EVERY_DECODER_LAYER,
        "self_attention.q_content.": ("sa_qcontent_proj.",) * 2,
        "self_attention.q_position.": ("sa_qpos_proj.",) * 2,
        "self_attention.k_content.": ("sa_kcontent_proj.",) * 2,
        "self_attention.k_position.": ("sa_kpos_proj.",) * 2,
        "self_attention.v.": ("sa_v_proj.",) * 2,
        "cross_attention.q_content.": ("ca_qcontent_proj.",) * 2,
        "cross_attention.q_position.": ("ca_qpos_proj.",) * 2,
        "cross_attention.q_spatial.": ("ca_qpos_sine_proj.",) * 2,
        "cross_attention.k_content.": ("ca_kcontent_proj.",) * 2,
        "cross_attention.k_spatial.": ("ca_kpos_proj.",) * 2,
        "cross_attention.v.": ("ca_v_proj.",) * 2,
        "cross_attention.out.": ("cross_attn.out_proj.", "encoder_attn.out_proj."),
    },
    "additive": {
        **EVERY_DECODER_LAYER,
        **ADDITIVE_SELF_ATTENTION,
        "cross_attention.q.": ("multihead_attn.in_proj_[0]", "encoder_attn.q_proj."),
        "cross_attention.k.": ("multihead_attn.in_proj_[1]", "encoder_attn.k_proj."),
        "cross_attention.v.": ("multihead_attn.in_proj_[2]", "encoder_attn.v_proj."),
        "cross_attention.out.": ("multihead_attn.out_proj.", "encoder_attn.out_proj."),
    },
}
LAYER = ("transformer.{}.layers.{}.", "model.{}.layers.{}.")
FORMATS = ("official", "huggingface")  # in the order of the tuples above

# Other spellings of the same names. They are replaced before the tables above are used.
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
VERSION_5 = [  # in-memory names of transformers 5, found in a directly saved state dict
    (r"^model\.backbone\.model\.", "model.backbone.conv_encoder.model."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.mlp\.(fc[12])\.", r".\1."),
    (r"\.self_attn\.([qk])_(content|pos)_proj\.", r".sa_\1\2_proj."),
    (r"\.encoder_attn\.([qk])_(content|pos)_proj\.", r".ca_\1\2_proj."),
    (r"\.encoder_attn\.q_pos_sine_proj\.", ".ca_qpos_sine_proj."),
]
VERSION_5_CONDITIONAL = [
    (r"(decoder\.layers\.\d+)\.self_attn\.v_proj\.", r"\1.sa_v_proj."),
    (r"(decoder\.layers\.\d+)\.encoder_attn\.v_proj\.", r"\1.ca_v_proj."),
]
OWN_RESNET = [  # from the ResNet of transformers to the names of torchvision and timm
    (r"\.embedder\.embedder\.convolution\.", ".conv1."),
    (r"\.embedder\.embedder\.normalization\.", ".bn1."),
    (r"\.encoder\.stages\.(\d+)\.layers\.(\d+)\.", lambda m: f".layer{int(m[1]) + 1}.{m[2]}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
]


class ForeignKey(NamedTuple):
    """Location of a tensor in a foreign checkpoint: the complete tensor `name`, or one of three chunks of its rows."""

    name: str
    chunk: int | None = None


class KeyTable:
    """Maps tensor names of this library to those of one foreign format.

    Parameters
    ----------
    format : one of `FORMATS`
    cross_attention : value of this field in the configuration of the model
    """

    def __init__(self, format: str, cross_attention: str) -> None:
        column = FORMATS.index(format)
        tables = (ONCE, ENCODER, DECODERS[cross_attention])
        self.once, self.encoder, self.decoder = ({key: names[column] for key, names in table.items()} for table in tables)
        self.layer = LAYER[column]

    def foreign_key(self, key: str) -> ForeignKey:
        """Return the location of a tensor of this library in the foreign format."""
        for start, name in self.once.items():
            if key.startswith(start):
                return ForeignKey(name + key.removeprefix(start))
        part, _, layer, rest = key.split(".", 3)
        table = self.encoder if part == "encoder" else self.decoder
        start = next(start for start in table if rest.startswith(start))
        name, bracket, number = table[start].partition("[")
        name = self.layer.format(part, layer) + name + rest.removeprefix(start)
        return ForeignKey(name, int(number[0]) if bracket else None)

    def to_foreign(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert tensors of this library to the foreign format. Chunks are joined."""
        foreign: dict[str, Tensor] = {}
        chunks: dict[str, list[Tensor]] = {}
        for key, value in state.items():
            name, chunk = self.foreign_key(key)
            if chunk is None:
                foreign[name] = value
            else:
                chunks.setdefault(name, []).append(value)  # query, key and value come in this order
        return foreign | {name: torch.cat(values) for name, values in chunks.items()}

    def from_foreign(self, foreign: dict[str, Tensor], keys: Iterable[str]) -> dict[str, Tensor]:
        """Extract tensors from a foreign checkpoint, by their names in this library."""
        ours = {}
        for key in keys:
            name, chunk = self.foreign_key(key)
            ours[key] = foreign[name] if chunk is None else foreign[name].chunk(3)[chunk]
        return ours


def renamed(foreign: dict[str, Tensor], *tables: list) -> dict[str, Tensor]:  # type: ignore[type-arg]
    """Rename the tensors of a foreign checkpoint to the spelling that `KeyTable` knows, and drop BatchNorm batch counters."""
    out = {}
    for key, value in foreign.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = WRAPPERS.sub("", key)
        for table in tables:
            for pattern, replacement in table:
                name = re.sub(pattern, replacement, name)
        out[name] = value
    return out
