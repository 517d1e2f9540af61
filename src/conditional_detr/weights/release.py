"""Checkpoints of the reference releases: Conditional DETR's and DETR's `.pth`."""

import argparse
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from conditional_detr.config import ModelConfig, PreprocessorConfig, build
from conditional_detr.errors import CheckpointError
from conditional_detr.factory import DetectionModel
from conditional_detr.weights.checkpoint import Checkpoint
from conditional_detr.weights.coco_names import names_of
from conditional_detr.weights.files import load_tensors
from conditional_detr.weights.names import RELEASE, renamed, to_foreign
from conditional_detr.weights.resnets import ROWS, backbone_of, check_can_be_held

FILE = "model.pth"
SUFFIXES = (".pth", ".pt")
HEADS = 8  # of every released model; weights do not tell
BACKBONE = "backbone.0.body."
MARKS: dict[str, Literal["conditional", "additive"]] = {
    "transformer.decoder.layers.0.ca_qpos_sine_proj.weight": "conditional",
    "transformer.decoder.layers.0.multihead_attn.in_proj_weight": "additive",
}


def claims(path: Path) -> bool:
    """Whether a path is such a checkpoint, or a folder that `save_model` wrote one into."""
    return path.is_file() if path.suffix in SUFFIXES else (path / FILE).is_file()


def read(path: Path) -> Checkpoint:
    """A `.pth` of the reference releases, a whole training checkpoint or bare weights.

    Only tensors and plain values are read (`weights_only`), and the `args` that the releases were trained with.
    What the weights do not tell (heads, dilation, dropout) is taken from `args`; without them the released models' values
    are taken, and a file whose name says "dc5" is dilated.
    """
    file = path if path.is_file() else path / FILE
    content = load_tensors(file)
    state = content.get("model", content)
    args = content.get("args", {})
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    if not isinstance(state, dict) or not isinstance(args, dict):
        raise CheckpointError(f"{file} must hold the weights by name, bare or under 'model'; found {type(state).__name__}")
    state = renamed({str(k): v for k, v in state.items() if isinstance(v, Tensor)})
    cross_attention = next((kind for mark, kind in MARKS.items() if mark in state), None)
    if cross_attention is None:
        raise CheckpointError(_unknown(file, state))
    groups = args.get("group_detr", 1) or 1
    if groups > 1:  # only the first group of queries is used after training
        state["query_embed.weight"] = state["query_embed.weight"].chunk(groups)[0]
    config = _config(file, state, args, cross_attention)
    stored = content if content is not state else {}
    preprocessor = build(PreprocessorConfig, stored.get("preprocessor", {}), str(file))
    names = stored.get("class_names", names_of(config.num_classes))
    kind = f"checkpoint of {'Conditional DETR' if cross_attention == 'conditional' else 'DETR'}'s reference release"
    return Checkpoint(kind, file, file, config, preprocessor, names, stored.get("category_ids"), state, RELEASE)


def write(model: DetectionModel, folder: Path) -> None:
    """`model.pth`: the reference code reads "model" alone; names, ids, preprocessing and sizes lie beside it as plain values.

    Raises
    ------
    CheckpointError : a variant that the reference code has no room for
    """
    config = model.config
    check_can_be_held(config, "official")
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
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
        "model": to_foreign(state, RELEASE, config.cross_attention),
        "args": args,
        "class_names": model.class_names,
        "category_ids": model.category_ids,
        "preprocessor": model.preprocessor.model_dump(mode="json"),
    }
    torch.save(content, folder / FILE)


def _config(file: Path, state: dict[str, Tensor], args: dict[str, Any], cross_attention: str) -> ModelConfig:
    for field, plain in (("pre_norm", (False,)), ("position_embedding", ("sine", "v2"))):
        if args.get(field, plain[0]) not in plain:
            raise CheckpointError(f"{file} was trained with {field} = {args[field]!r}; there is only {plain[0]!r} here")
    dilation = args.get("dilation", "dc5" in file.name.lower())
    if "query_embed.weight" not in state or "class_embed.weight" not in state:
        raise CheckpointError(_unknown(file, state))
    queries, dim = state["query_embed.weight"].shape
    values = {
        **ROWS[cross_attention],
        "cross_attention": cross_attention,
        "backbone": backbone_of(state, BACKBONE, file),
        "dilation": dilation,
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
        return f"{file} must hold {wanted}; it is a segmentation model, which is not read"
    found = ", ".join(sorted(state)[:3]) or "no tensor at all"
    return f"{file} must hold {wanted}; found {found}{', …' if len(state) > 3 else ''}"
