"""Checkpoints of the reference releases of Conditional DETR and DETR (`.pth` files)."""

import argparse
from pathlib import Path
from typing import Any, Literal

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
from conditional_detr.weights.key_mapping import KeyTable, renamed
from conditional_detr.weights.recognise import RELEASE_FILE

HEADS = 8  # number of attention heads of every released model; it cannot be derived from the weights
BACKBONE = "backbone.0.body."
MARKS: dict[str, Literal["conditional", "additive"]] = {
    "transformer.decoder.layers.0.ca_qpos_sine_proj.weight": "conditional",
    "transformer.decoder.layers.0.multihead_attn.in_proj_weight": "additive",
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
    cross_attention = next((kind for mark, kind in MARKS.items() if mark in state), None)
    if cross_attention is None or not {"query_embed.weight", "class_embed.weight"} <= set(state):
        raise CheckpointError(_unknown(file, state))
    groups = args.get("group_detr") or 1
    if isinstance(groups, int) and groups > 1:  # only the first group of queries is used after training
        state["query_embed.weight"] = state["query_embed.weight"].chunk(groups)[0]
    config = _config(file, state, {**args, "timm_backbone": content.get("timm_backbone")}, cross_attention)
    preprocessor = build(PreprocessorConfig, content.get("preprocessor") or {}, str(file))
    names = content.get("class_names") or names_of(config.num_classes)
    kind = f"checkpoint of {'Conditional DETR' if cross_attention == 'conditional' else 'DETR'}'s reference release"
    keys = KeyTable("official", cross_attention)
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
        "pre_norm": False,
        "masks": False,
    }
    content = {
        "model": KeyTable("official", config.cross_attention).to_foreign(weights_of(model)),
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


def _config(file: Path, state: dict[str, Tensor], args: dict[str, Any], cross_attention: str) -> ModelConfig:
    for field, plain in (("pre_norm", (False,)), ("position_embedding", ("sine", "v2"))):
        if args.get(field, plain[0]) not in plain:
            raise CheckpointError(f"{file} was trained with {field} = {args[field]!r}; only {plain[0]!r} is supported")
    dilation = args.get("dilation", "dc5" in file.name.lower())
    queries, dim = state["query_embed.weight"].shape
    values = {
        **FOREIGN_CHOICES[cross_attention],
        "cross_attention": cross_attention,
        "backbone": named(backbone_of(state, BACKBONE, file), args["timm_backbone"]),
        "dilation": dilation,
        "strides": [16] if dilation else [32],
        "num_classes": len(state["class_embed.weight"]) - (cross_attention == "additive"),
        "num_queries": queries,
        "hidden_dim": dim,
        "num_heads": args.get("nheads", HEADS),
        "encoder_layers": _layers(state, "encoder"),
        "decoder_layers": _layers(state, "decoder"),
        "feedforward_dim": len(state.get("transformer.decoder.layers.0.linear1.weight", [0])),
        "dropout": args.get("dropout", ModelConfig.model_fields["dropout"].default),
    }
    return build(ModelConfig, values, str(file))


def _layers(state: dict[str, Tensor], part: str) -> int:
    return len({key.split(".")[3] for key in state if key.startswith(f"transformer.{part}.layers.")})


def _unknown(file: Path, state: dict[str, Tensor]) -> str:
    wanted = "a detector of Conditional DETR's or DETR's reference release (transformer.decoder.layers.0.*, class_embed.*)"
    if any(key.startswith(("detr.", "mask_head.", "bbox_attention.")) for key in state):
        return f"{file} must hold {wanted}; it is a segmentation model, which is not supported"
    return f"{file} must hold {wanted}; found {shortened_list(sorted(state)) or 'no tensor at all'}"
