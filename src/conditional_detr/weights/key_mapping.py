"""Tensor names of this library and of foreign checkpoints, in tables that are used in both directions."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from conditional_detr.errors import CheckpointError

# Name in this library: (name in the reference releases, name in transformers). A number in brackets means that the tensor is
# this third of the rows of a joint projection of query, key and value; in braces, this half of the columns. A star stands for
# the numbers of copies of the tensor.
BACKBONE = {"backbone.body.": ("backbone.0.body.", "model.backbone.conv_encoder.model.")}
DETR_ONCE = {
    **BACKBONE,
    "input_projection.": ("input_proj.", "model.input_projection."),
    "object_query": ("query_embed.weight", "model.query_position_embeddings.weight"),
    "reference_points.mlp.": ("transformer.decoder.ref_point_head.", "model.decoder.ref_point_head."),
    "decoder.spatial_query.lambda_q.mlp.": ("transformer.decoder.query_scale.", "model.decoder.query_scale."),
    "reference_points.patch_projection.": ("patch2query.", ""),  # this and the next only in UP-DETR's pre-training
    "feature_head.mlp.": ("feature_align.", ""),
    "encoder.norm.": ("transformer.encoder.norm.", ""),  # only with norm = "pre", which transformers does not have
    "decoder.norm.": ("transformer.decoder.norm.", "model.decoder.layernorm."),
    "class_head.": ("class_embed.", "class_labels_classifier."),
    "box_head.mlp.": ("bbox_embed.", "bbox_predictor."),
}
DEFORMABLE_ONCE = {
    **BACKBONE,
    "input_projection.conv.": ("input_proj.0.0.", "model.input_proj.0.0."),
    "input_projection.norm.": ("input_proj.0.1.", "model.input_proj.0.1."),
    "object_query": ("query_embed.weight{0}", "model.query_position_embeddings.weight{0}"),
    "reference_points.content.weight": ("query_embed.weight{1}", "model.query_position_embeddings.weight{1}"),
    "reference_points.linear.": ("transformer.reference_points.", "model.reference_points."),
    "encoder.level_embedding.weight": ("transformer.level_embed", "model.level_embed"),
    "class_head.": ("class_embed.*.",) * 2,
    "box_head.mlp.": ("bbox_embed.*.",) * 2,
}
ONCE = {"conditional": DETR_ONCE, "additive": DETR_ONCE, "deformable": DEFORMABLE_ONCE}
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
EVERY_ENCODER_LAYER = {
    **EVERY_LAYER,
    "norm.": ("norm1.", "self_attn_layer_norm."),
    "feedforward.norm.": ("norm2.", "final_layer_norm."),
}
SAMPLING = {"offsets.": "sampling_offsets.", "weights.": "attention_weights.", "value.": "value_proj.", "out.": "output_proj."}
ENCODERS = {
    "dense": {**EVERY_ENCODER_LAYER, **ADDITIVE_SELF_ATTENTION},
    "deformable": {
        **EVERY_ENCODER_LAYER,
        **{f"self_attention.{ours}": (f"self_attn.{theirs}",) * 2 for ours, theirs in SAMPLING.items()},
    },
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
    "deformable": {
        **EVERY_DECODER_LAYER,
        **ADDITIVE_SELF_ATTENTION,
        "norm1.": ("norm2.", "self_attn_layer_norm."),  # the release numbers the norms by the order of their definition
        "norm2.": ("norm1.", "encoder_attn_layer_norm."),
        **{f"cross_attention.{ours}": (f"cross_attn.{each}", f"encoder_attn.{each}") for ours, each in SAMPLING.items()},
    },
}
PARTS = {"[": (3, 0), "{": (2, 1)}  # bracket in a name → number of parts, and axis along which they are joined
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
    """Location of a tensor in a foreign checkpoint.

    Attributes
    ----------
    names : names of the tensor; all copies are equal
    part : number of the part of the tensor; None = all of it
    parts, axis : number of parts, and the axis along which they are joined
    """

    names: list[str]
    part: int | None = None
    parts: int = 1
    axis: int = 0


class KeyTable:
    """Maps tensor names of this library to those of one foreign format.

    Parameters
    ----------
    format : one of `FORMATS`
    cross_attention : value of this field in the configuration of the model
    copies : number of copies of the heads in a format that stores them once for each decoder layer
    """

    def __init__(self, format: str, cross_attention: str, copies: int = 1) -> None:
        column = FORMATS.index(format)
        encoder = ENCODERS["deformable" if cross_attention == "deformable" else "dense"]
        tables = (ONCE[cross_attention], encoder, DECODERS[cross_attention])
        self.once, self.encoder, self.decoder = ({key: names[column] for key, names in table.items()} for table in tables)
        self.layer, self.copies = LAYER[column], copies

    def foreign_key(self, key: str) -> ForeignKey:
        """Return the location of a tensor of this library in the foreign format."""
        for start, name in self.once.items():
            if key.startswith(start):
                return self._location(name, key.removeprefix(start))
        part, _, layer, rest = key.split(".", 3)
        table = self.encoder if part == "encoder" else self.decoder
        start = next(start for start in table if rest.startswith(start))
        return self._location(self.layer.format(part, layer) + table[start], rest.removeprefix(start))

    def _location(self, written: str, end: str) -> ForeignKey:
        for bracket, (parts, axis) in PARTS.items():
            name, found, number = written.partition(bracket)
            if found:
                return ForeignKey([name + end], int(number[0]), parts, axis)
        copies = range(self.copies) if "*" in written else (0,)
        return ForeignKey([written.replace("*", str(copy)) + end for copy in copies])

    def to_foreign(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert tensors of this library to the foreign format. Parts are joined, and copies are made."""
        foreign: dict[str, Tensor] = {}
        parts: dict[tuple[str, int], dict[int, Tensor]] = {}
        for key, value in state.items():
            names, part, _, axis = self.foreign_key(key)
            if part is None:
                foreign |= {name: value.clone() if copy else value for copy, name in enumerate(names)}
            else:
                parts.setdefault((names[0], axis), {})[part] = value
        joined = {name: torch.cat([found[k] for k in sorted(found)], dim=axis) for (name, axis), found in parts.items()}
        return foreign | joined

    def from_foreign(self, foreign: dict[str, Tensor], keys: Iterable[str]) -> dict[str, Tensor]:
        """Extract tensors from a foreign checkpoint, by their names in this library."""
        ours = {}
        for key in keys:
            names, part, parts, axis = self.foreign_key(key)
            ours[key] = foreign[names[0]] if part is None else foreign[names[0]].chunk(parts, axis)[part]
        return ours


def without_copies(state: dict[str, Tensor], file: object) -> dict[str, Tensor]:
    """Keep one of the equal heads that the release and transformers store for each decoder layer of Deformable DETR.

    Raises
    ------
    CheckpointError : the heads differ, as those of a model with box refinement do
    """
    kept = {}
    for key, value in state.items():
        found = re.match(r"(class_embed|bbox_embed)\.(\d+)\.(.+)", key)
        if found is None or found[2] == "0":
            kept[key] = value
        elif (first := state.get(f"{found[1]}.0.{found[3]}")) is None or not torch.equal(value, first):
            raise CheckpointError(
                f"{file}: the heads {found[1]}.0 and {found[1]}.{found[2]} differ, as in a model with refined boxes, which "
                "this format does not support"
            )
    return kept


def renamed(foreign: dict[str, Tensor], *tables: list) -> dict[str, Tensor]:  # type: ignore[type-arg]
    """Rename the tensors of a foreign checkpoint to the spelling that `KeyTable` knows.

    Counters of BatchNorm and of profilers are dropped.
    """
    out = {}
    for key, value in foreign.items():
        if key.endswith(("num_batches_tracked", "total_ops", "total_params")):
            continue
        name = WRAPPERS.sub("", key)
        for table in tables:
            for pattern, replacement in table:
                name = re.sub(pattern, replacement, name)
        out[name] = value
    return out
