"""Folders of the transformers models `conditional_detr`, `detr` and `deformable_detr`, written by its versions 4 and 5."""

import json
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from conditional_detr.config.messages import build
from conditional_detr.config.schema import ModelConfig, PreprocessorConfig
from conditional_detr.errors import CheckpointError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.storage.json import read_json_object
from conditional_detr.weights.checkpoint import Checkpoint
from conditional_detr.weights.coco_names import NOT_A_CATEGORY, names_of
from conditional_detr.weights.files import load_tensors, read_weights, weights_of
from conditional_detr.weights.foreign_limits import FOREIGN_CHOICES, backbone_of, check_can_be_held, named
from conditional_detr.weights.key_mapping import (
    OWN_RESNET,
    VERSION_5,
    VERSION_5_CONDITIONAL,
    KeyTable,
    renamed,
    without_copies,
)
from conditional_detr.weights.recognise import DESCRIPTION, PICKLED, PREPROCESSOR, SHARDS, WEIGHTS, shards_of

BACKBONE = "model.backbone.conv_encoder.model."
Kind = Literal["conditional", "additive", "deformable"]
TYPES: dict[str, Kind] = {"conditional_detr": "conditional", "detr": "additive", "deformable_detr": "deformable"}
CLASSES = {"conditional": "ConditionalDetr", "additive": "Detr", "deformable": "DeformableDetr"}
CLASS_BIAS = {
    "conditional": "class_labels_classifier.bias", "additive": "class_labels_classifier.bias",
    "deformable": "class_embed.0.bias",
}  # fmt: skip
# Defaults of transformers for fields that are missing in `config.json`, and fields that support only one value here (`*ONLY`).
DEFAULTS = {"d_model": 256, "encoder_layers": 6, "decoder_layers": 6, "decoder_attention_heads": 8}
QUERIES = {"conditional": 300, "additive": 100, "deformable": 300}
FEEDFORWARD = {"conditional": 2048, "additive": 2048, "deformable": 1024}
LEVELS, POINTS = 4, 4  # of Deformable DETR
ONLY = {"activation_function": "relu", "position_embedding_type": "sine", "num_channels": 3, "scale_embedding": False}
BACKBONE_ONLY = {
    "hidden_act": "relu",
    "downsample_in_bottleneck": False,
    "downsample_in_first_stage": False,
    "num_channels": 3,
    "in_chans": 3,
}
PREPROCESSOR_ONLY = {"do_resize": True, "do_rescale": True, "resample": 2}  # 2 is Pillow's bilinear
PLACEHOLDER = "LABEL_"
LEARNED = ("thresholds", "nms_iou")  # attributes of a model under their own names in `config.json`; transformers ignores them


def read(path: Path) -> Checkpoint:
    """Read a folder of `conditional_detr` or `detr`, with weights as safetensors, sharded safetensors or `pytorch_model.bin`.

    The field `auxiliary_loss` is ignored, because it makes transformers run a different model from the one that was trained.
    """
    file = path / DESCRIPTION
    content = read_json_object(file, CheckpointError)
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in TYPES:
        raise CheckpointError(f"{file} must have the model_type {' or '.join(TYPES)}; it has {str(kind)[:60]!r}")
    cross_attention = TYPES[kind]
    made = content.get("architectures") or [f"{CLASSES[cross_attention]}ForObjectDetection"]
    if not any(str(each).endswith("ForObjectDetection") for each in made):
        raise CheckpointError(
            f"{file} must describe a {CLASSES[cross_attention]}ForObjectDetection; it describes a {str(made[0])[:60]}"
        )
    weights, state = _read_state(path)
    if any(key.startswith("detr.") for key in state):
        raise CheckpointError(f"{path} must hold a detector; it is a segmentation model, which is not supported")
    state = renamed(state, VERSION_5, VERSION_5_CONDITIONAL if cross_attention == "conditional" else [], OWN_RESNET)
    if cross_attention == "deformable":
        _check_single_scale(content, file)
        state = without_copies(state, path)
    names = _class_names(content, state.get(CLASS_BIAS[cross_attention]), file)
    config = _config(file, content, state, cross_attention, len(names))
    preprocessor = _read_preprocessor(path / PREPROCESSOR)
    if "category_ids" not in content and all(name == f"{PLACEHOLDER}{i}" for i, name in enumerate(names)):
        names = names_of(len(names)) or [str(i) for i in range(len(names))]
    ids = content.get("category_ids")
    keys = KeyTable("huggingface", cross_attention)
    learned = {key: content.get(key) for key in LEARNED}
    return Checkpoint(f"Hugging Face folder ({kind})", file, weights, config, preprocessor, names, ids, state, keys, **learned)


def check_can_be_written(model: DetectionModel) -> None:
    """Check that the format of transformers can hold a model.

    Raises
    ------
    CheckpointError : it cannot; the message names the first field that does not fit
    """
    check_can_be_held(model.config, "huggingface")
    for field, only in {"size_multiple": 1, "tile": 0}.items():
        if getattr(model.preprocessor, field) != only:
            raise CheckpointError(f"the format 'huggingface' cannot hold a preprocessor's {field}. Save it as 'native'")


def write(model: DetectionModel, folder: Path) -> None:
    """Write `config.json`, `model.safetensors` and `preprocessor_config.json`, with names that both major versions read.

    Raises
    ------
    CheckpointError : the format of transformers cannot hold this variant
    """
    config = model.config
    check_can_be_written(model)
    names = dict(enumerate(model.class_names))
    content = {
        "architectures": [f"{CLASSES[config.cross_attention]}ForObjectDetection"],
        "model_type": next(kind for kind, row in TYPES.items() if row == config.cross_attention),
        "use_timm_backbone": True,
        "backbone": config.backbone,
        "use_pretrained_backbone": False,
        "dilation": config.dilation,
        "num_queries": config.num_queries,
        "d_model": config.hidden_dim,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        **{f"{part}_attention_heads": config.num_heads for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": config.feedforward_dim for part in ("encoder", "decoder")},
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
        "activation_dropout": config.dropout,
        **ONLY,
        **(_single_scale(config) if config.cross_attention == "deformable" else {}),
        "id2label": names,
        "label2id": {name: i for i, name in names.items()},
        "category_ids": model.category_ids,
        **{key: value for key in LEARNED if (value := getattr(model, key)) is not None},
    }
    image = model.preprocessor
    preprocessing = {
        "image_processor_type": f"{CLASSES[config.cross_attention]}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image.imgsz, "longest_edge": image.longest},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "do_pad": True,
        "format": "coco_detection",
    }
    foreign = KeyTable("huggingface", config.cross_attention, config.decoder_layers).to_foreign(weights_of(model))
    save_file(foreign, folder / WEIGHTS, metadata={"format": "pt"})
    for name, values in ((DESCRIPTION, content), (PREPROCESSOR, preprocessing)):
        (folder / name).write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")


def _read_state(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS, read_weights(folder / WEIGHTS)
    if (folder / SHARDS).is_file():
        state: dict[str, Tensor] = {}
        for shard in shards_of(folder / SHARDS):
            state |= read_weights(folder / shard)
        return folder / SHARDS, state
    if (folder / PICKLED).is_file():
        content = load_tensors(folder / PICKLED)
        return folder / PICKLED, {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    raise CheckpointError(f"{folder} holds a {DESCRIPTION} but no weights: one of {WEIGHTS}, {SHARDS}, {PICKLED} is required")


def _single_scale(config: ModelConfig) -> dict[str, Any]:
    """The fields of `deformable_detr` for a single scale, with the costs and loss weights of the paper."""
    points = dict.fromkeys(("encoder_n_points", "decoder_n_points"), config.sampling_points)
    return points | {"num_feature_levels": 1, "with_box_refine": False, "two_stage": False, "class_cost": 2}


def _check_single_scale(content: dict[str, Any], file: Path) -> None:
    """Check that a `deformable_detr` has a single scale and neither refined boxes nor two stages.

    Raises
    ------
    CheckpointError : names what was found
    """
    found = [f"{name} = True" for name in ("with_box_refine", "two_stage") if content.get(name)]
    if (levels := content.get("num_feature_levels", LEVELS)) != 1:
        found.append(f"num_feature_levels = {levels!r}")
    if found:
        raise CheckpointError(
            f"{file} describes a Deformable DETR with {', '.join(found)}; only the one with a single scale, without refined "
            "boxes and two stages, is supported"
        )


def _class_names(content: dict[str, Any], bias: Tensor | None, file: Path) -> list[str]:
    """Return a name for each logit.

    transformers omits `id2label` if nobody set it, and data sets with gaps in their ids omit the names of unused ids.
    """
    count = 0 if bias is None else bias.numel() - (content["model_type"] == "detr")
    labels = content.get("id2label") or {str(i): f"{PLACEHOLDER}{i}" for i in range(count)}
    if not isinstance(labels, dict) or not set(labels) <= {str(i) for i in range(count)}:
        raise CheckpointError(f"{file} must name the {count} classes of the head in 'id2label', by numbers from 0")
    return [str(labels.get(str(i), NOT_A_CATEGORY)) for i in range(count)]


def _config(
    file: Path,
    content: dict[str, Any],
    state: dict[str, Tensor],
    cross_attention: Kind,
    classes: int,
) -> ModelConfig:
    _only(file, content, ONLY)
    defaults = {"attention_heads": DEFAULTS["decoder_attention_heads"], "ffn_dim": FEEDFORWARD[cross_attention]}
    for field, default in {**defaults, **({"n_points": POINTS} if cross_attention == "deformable" else {})}.items():
        encoder, decoder = (content.get(f"{part}_{field}", default) for part in ("encoder", "decoder"))
        if encoder != decoder:
            raise CheckpointError(f"{file} has {encoder!r} encoder_{field} and {decoder!r} decoder_{field}: they must be equal")
    options = _backbone_options(content, file)
    dilation = _is_dilated(content, options, file)
    values = {
        **FOREIGN_CHOICES[cross_attention],
        "cross_attention": cross_attention,
        "backbone": named(backbone_of(state, BACKBONE, file.parent), options.get("backbone", content.get("backbone"))),
        "dilation": dilation,
        "strides": [16] if dilation else [32],
        "num_classes": classes,
        "num_queries": content.get("num_queries", QUERIES[cross_attention]),
        "hidden_dim": content.get("d_model", DEFAULTS["d_model"]),
        "num_heads": content.get("decoder_attention_heads", DEFAULTS["decoder_attention_heads"]),
        "encoder_layers": content.get("encoder_layers", DEFAULTS["encoder_layers"]),
        "decoder_layers": content.get("decoder_layers", DEFAULTS["decoder_layers"]),
        "feedforward_dim": content.get("decoder_ffn_dim", FEEDFORWARD[cross_attention]),
        "dropout": content.get("dropout", ModelConfig.model_fields["dropout"].default),
    }
    if cross_attention == "deformable":
        values["sampling_points"] = content.get("decoder_n_points", POINTS)
    return build(ModelConfig, values, str(file))


def _backbone_options(content: dict[str, Any], file: Path) -> dict[str, Any]:
    options = content.get("backbone_config") or content.get("backbone_kwargs") or {}
    if not isinstance(options, dict):
        raise CheckpointError(f"{file} must describe the backbone by a JSON object; it has {str(options)[:60]!r}")
    _only(file, options, BACKBONE_ONLY, "the backbone's ")
    return options


def _is_dilated(content: dict[str, Any], options: dict[str, Any], file: Path) -> bool:
    """Whether the backbone is dilated.

    `output_stride` decides if it is set. Otherwise `dilation` does, which the ResNet of transformers does not support.
    """
    stride = options.get("output_stride")
    if stride not in (None, 16, 32):
        raise CheckpointError(f"{file} has the backbone's output_stride = {stride!r}; only 16 and 32 are supported")
    if stride is None and not content.get("backbone_config"):
        return bool(content.get("use_timm_backbone", True) and content.get("dilation", False))
    return stride == 16


def _only(file: Path, content: dict[str, Any], only: dict[str, Any], whose: str = "") -> None:
    for field, value in only.items():
        if content.get(field) not in (None, value):
            raise CheckpointError(f"{file} has {whose}{field} = {content[field]!r}; only {value!r} is supported")


def _read_preprocessor(file: Path) -> PreprocessorConfig:
    """Read the preprocessing. Without a file, use sizes of 800 and 1333 px and the constants of ImageNet."""
    if not file.is_file():
        return PreprocessorConfig()
    content = read_json_object(file, CheckpointError)
    _only(file, content, PREPROCESSOR_ONLY)
    factor = content.get("rescale_factor") or 1 / 255
    if not isinstance(factor, float) or abs(255 * factor - 1) > 1e-6:
        raise CheckpointError(f"{file} has rescale_factor = {factor!r}; only 1/255 is supported")
    shortest, longest = _edges(content, file)
    default = isinstance(shortest, int) and longest == PreprocessorConfig(imgsz=max(16, min(shortest, 8192))).longest
    values: dict[str, Any] = {"imgsz": shortest, "max_size": 0 if default else longest}
    if content.get("do_normalize", True):
        pairs = (("mean", "image_mean"), ("std", "image_std"))
        values |= {ours: content[theirs] for ours, theirs in pairs if content.get(theirs) is not None}
    else:
        values |= {"mean": (0, 0, 0), "std": (1, 1, 1)}
    return build(PreprocessorConfig, values, str(file))


def _edges(content: dict[str, Any], file: Path) -> tuple[Any, Any]:
    """Length of the shorter side and limit of the longer side, px.

    `max_height` and `max_width` scale an image until it fits into them. If they are equal, the limit applies to the longer
    side, whatever the shorter one is. `pad_size` is ignored: it only adds masked pixels.
    """
    size = content.get("size", {"shortest_edge": 800, "longest_edge": 1333})
    if isinstance(size, int):  # in older files
        size = {"shortest_edge": size, "longest_edge": content.get("max_size", 1333)}
    if isinstance(size, dict) and {"shortest_edge", "longest_edge"} <= set(size):
        return size["shortest_edge"], size["longest_edge"]
    if not isinstance(size, dict) or not {"max_height", "max_width"} <= set(size):
        raise CheckpointError(
            f"{file} must resize by shortest_edge and longest_edge, or by max_height and max_width, which keep the aspect "
            f"ratio; it has size = {size!r}"
        )
    if size["max_height"] != size["max_width"]:
        raise CheckpointError(
            f"{file} must have equal max_height and max_width, because a limit that differs between height and width is not "
            f"supported; it has size = {size!r}"
        )
    return size["max_height"], size["max_width"]
