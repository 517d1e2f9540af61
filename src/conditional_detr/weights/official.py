"""Checkpoints of the reference releases of Conditional DETR, DETR, Deformable DETR and UP-DETR (`.pth` files)."""

import argparse
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from conditional_detr.config.messages import build
from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.errors import CheckpointError, shortened_list
from conditional_detr.factory.build import DetectionModel
from conditional_detr.weights.checkpoint import Checkpoint
from conditional_detr.weights.coco_names import names_of
from conditional_detr.weights.files import load_tensors, weights_of
from conditional_detr.weights.foreign_limits import FOREIGN_CHOICES, backbone_of, check_can_be_held, named
from conditional_detr.weights.key_mapping import KeyTable, renamed, without_copies
from conditional_detr.weights.recognise import RELEASE_FILE

HEADS = 8  # number of attention heads of every released model; it cannot be derived from the weights
BACKBONE = "backbone.0.body."
LAYER = "transformer.{}.layers.0."
PATCHES, PATCH_PROJECTION = 10, "patch2query.weight"  # patches of UP-DETR's pre-training, and a tensor that tells it
ENCODER_NORM = "transformer.encoder.norm.weight"  # only DETR with pre-norm layers has it


class System(NamedTuple):
    """A published detector: its name, its cross-attention, and tensors that only its checkpoints have."""

    name: str
    cross_attention: Literal["conditional", "additive", "deformable"]
    mark: str
    class_weight: str = "class_embed.weight"


SYSTEMS = (
    System("Conditional DETR", "conditional", f"{LAYER.format('decoder')}ca_qpos_sine_proj.weight"),
    System("DETR", "additive", f"{LAYER.format('decoder')}multihead_attn.in_proj_weight"),
    System(
        "Deformable DETR", "deformable", f"{LAYER.format('decoder')}cross_attn.sampling_offsets.weight", "class_embed.0.weight"
    ),
)
# Start of the name of a tensor → what a checkpoint of Deformable DETR with such tensors has, which is not supported.
NOT_SINGLE_SCALE = {
    "input_proj.1.": "several feature levels (input_proj.1)",
    "transformer.decoder.bbox_embed.": "refined boxes (transformer.decoder.bbox_embed)",
    "transformer.decoder.class_embed.": "two stages (transformer.decoder.class_embed)",
    "transformer.enc_output.": "two stages (transformer.enc_output)",
    "transformer.pos_trans.": "two stages (transformer.pos_trans)",
}


def read(path: Path) -> Checkpoint:
    """Read a `.pth` file of the reference releases, either a complete training checkpoint or only weights.

    Only tensors, plain values and the `args` of the training script are read (`weights_only`). The number of heads, dilation
    and dropout cannot be derived from the weights, so they are taken from `args`. Without `args`, the values of the released
    models are used, and the model is dilated if the file name contains "dc5".
    """
    file = path if path.is_file() else path / RELEASE_FILE
    content = load_tensors(file)
    state = next((content[key] for key in ("model", "state_dict") if key in content), content)
    args = content.get("args") or {}
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    for name, value in (("model", state), ("args", args)):
        if not isinstance(value, dict):
            raise CheckpointError(f"{file} must hold a dict under {name!r}; it holds a {type(value).__name__}")
    state = renamed({str(k): v for k, v in state.items() if isinstance(v, Tensor)})
    system = next((each for each in SYSTEMS if each.mark in state), None)
    if system is not None and system.cross_attention == "deformable":
        state = _single_scale(state, args, file)
    if system is None or not {"query_embed.weight", system.class_weight} <= set(state):
        raise CheckpointError(_unknown(file, state))
    groups = args.get("group_detr") or 1
    if isinstance(groups, int) and groups > 1:  # only the first group of queries is used after training
        state["query_embed.weight"] = state["query_embed.weight"].chunk(groups)[0]
    config = _config(file, state, {**args, "timm_backbone": content.get("timm_backbone")}, system)
    preprocessor = build(PreprocessorConfig, content.get("preprocessor") or {}, str(file))
    names = content.get("class_names") or names_of(config.num_classes)
    name = "UP-DETR" if config.norm == "pre" else system.name
    kind = f"checkpoint of {name}'s reference release"
    keys = KeyTable("official", system.cross_attention)
    return Checkpoint(kind, file, file, config, preprocessor, names, content.get("category_ids"), state, keys)


def write(model: DetectionModel, folder: Path) -> None:
    """Write `model.pth`.

    The reference code reads only the entry "model". Class names, category ids, preprocessing and sizes are added as plain
    values.

    Raises
    ------
    CheckpointError : the reference code does not support this variant
    """
    config = model.config
    check_can_be_held(config, "official")
    args = {
        "backbone": config.backbone.split(".")[0],
        "dilation": config.dilation,
        "hidden_dim": config.hidden_dim,
        "nheads": config.num_heads,
        "enc_layers": config.encoder_layers,
        "dec_layers": config.decoder_layers,
        "dim_feedforward": config.feedforward_dim,
        "dropout": config.dropout,
        "num_queries": config.num_queries,
        "position_embedding": "sine",
        "pre_norm": config.norm == "pre",
        "masks": False,
    }
    if config.patches:
        args |= {"num_patches": config.patches}
    if config.cross_attention == "deformable":
        args |= {"num_feature_levels": 1, "with_box_refine": False, "two_stage": False}
        args |= {"enc_n_points": config.sampling_points, "dec_n_points": config.sampling_points}
    content = {
        "model": KeyTable("official", config.cross_attention, config.decoder_layers).to_foreign(weights_of(model)),
        "args": args,
        "timm_backbone": config.backbone,
        "class_names": model.class_names,
        "category_ids": model.category_ids,
        "preprocessor": model.preprocessor.model_dump(mode="json"),
    }
    try:
        with (folder / RELEASE_FILE).open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # raised if the disk is full
        raise OSError(str(error).splitlines()[0]) from None


def _single_scale(state: dict[str, Tensor], args: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """Check that a checkpoint of Deformable DETR has a single scale and neither refined boxes nor two stages.

    Returns
    -------
    the tensors, with one copy of the heads

    Raises
    ------
    CheckpointError : names what was found
    """
    found = [what for start, what in NOT_SINGLE_SCALE.items() if any(key.startswith(start) for key in state)]
    levels = len(state.get("transformer.level_embed", [0]))
    found += [f"{levels} feature levels (transformer.level_embed)"] if levels != 1 else []
    found += [f"args.{name} = True" for name in ("with_box_refine", "two_stage", "masks") if args.get(name)]
    if found:
        raise CheckpointError(
            f"{file} is a Deformable DETR with {', '.join(dict.fromkeys(found))}; only the one with a single scale, without "
            "refined boxes and two stages, is supported"
        )
    return without_copies(state, file)


def _points(state: dict[str, Tensor], args: dict[str, Any], heads: int, file: Path) -> int:
    """Number of sampling points per head. The rows of the attention weights are heads times points."""
    rows = [
        len(state[f"{LAYER.format(part)}{name}.attention_weights.weight"])
        for part, name in (("encoder", "self_attn"), ("decoder", "cross_attn"))
    ]
    points = [args.get(name) or count // heads for name, count in zip(("enc_n_points", "dec_n_points"), rows, strict=True)]
    if rows[0] != rows[1] or points[0] != points[1] or points[0] * heads != rows[0]:
        raise CheckpointError(
            f"{file} samples {points[0]} points in the encoder and {points[1]} in the decoder, with {heads} heads, and "
            f"{rows[0]} and {rows[1]} attention weights: they must agree"
        )
    return int(points[0])


def _norm(state: dict[str, Tensor], args: dict[str, Any], system: System, file: Path) -> str:
    """Where the norms of a layer are. The weights tell, because only an encoder with pre-norm layers ends with a norm."""
    pre = ENCODER_NORM in state
    if pre and system.cross_attention != "additive":
        raise CheckpointError(f"{file} is a {system.name} with pre-norm layers (pre_norm), which is not supported")
    if args.get("pre_norm", pre) != pre:
        raise CheckpointError(
            f"{file} was trained with pre_norm = {args['pre_norm']!r}, but its encoder "
            f"{'ends' if pre else 'does not end'} with a layer norm ({ENCODER_NORM}): they must agree"
        )
    return "pre" if pre else "post"


def _config(file: Path, state: dict[str, Tensor], args: dict[str, Any], system: System) -> ModelConfig:
    plain = ("sine", "v2")
    if args.get("position_embedding", plain[0]) not in plain:
        found = args["position_embedding"]
        raise CheckpointError(f"{file} was trained with position_embedding = {found!r}; only {plain[0]!r} is supported")
    dilation = args.get("dilation", "dc5" in file.name.lower())
    cross_attention, heads = system.cross_attention, args.get("nheads", HEADS)
    queries, dim = state["query_embed.weight"].shape
    if cross_attention == "deformable":  # one half is the object query, the other the first content
        dim //= 2
    values = {
        **FOREIGN_CHOICES[cross_attention],
        "cross_attention": cross_attention,
        "norm": _norm(state, args, system, file),
        "backbone": named(backbone_of(state, BACKBONE, file), args["timm_backbone"]),
        "dilation": dilation,
        "strides": [16] if dilation else [32],
        "num_classes": len(state[system.class_weight]) - (cross_attention == "additive"),
        "num_queries": queries,
        "hidden_dim": dim,
        "num_heads": heads,
        "encoder_layers": _layers(state, "encoder"),
        "decoder_layers": _layers(state, "decoder"),
        "feedforward_dim": len(state.get("transformer.decoder.layers.0.linear1.weight", [0])),
        "dropout": args.get("dropout", ModelConfig.model_fields["dropout"].default),
    }
    if PATCH_PROJECTION in state:
        values["patches"] = args.get("num_patches") or PATCHES
    if cross_attention == "deformable":
        values["sampling_points"] = _points(state, args, heads, file)
    return build(ModelConfig, values, str(file))


def _layers(state: dict[str, Tensor], part: str) -> int:
    return len({key.split(".")[3] for key in state if key.startswith(f"transformer.{part}.layers.")})


def _unknown(file: Path, state: dict[str, Tensor]) -> str:
    wanted = (
        "a detector of the reference release of Conditional DETR, DETR, Deformable DETR or UP-DETR "
        "(transformer.decoder.layers.0.*, class_embed.*)"
    )
    if any(key.startswith(("detr.", "mask_head.", "bbox_attention.")) for key in state):
        return f"{file} must hold {wanted}; it is a segmentation model, which is not supported"
    return f"{file} must hold {wanted}; found {shortened_list(sorted(state)) or 'no tensor at all'}"
