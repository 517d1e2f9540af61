"""Describe a model: architecture, size and cost."""

from pathlib import Path

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from conditional_detr.config.parts import unused_fields
from conditional_detr.config.schema import SIZES, ModelConfig, PreprocessorConfig
from conditional_detr.factory.build import DetectionModel
from conditional_detr.factory.create import create_model
from conditional_detr.images.preprocessing import Preprocessor
from conditional_detr.weights import exported
from conditional_detr.weights.discovery import find_checkpoint, read_checkpoint

LANDSCAPE = (480, 640)
# Fields of a model's configuration that are shown in other lines or not at all.
ELSEWHERE = SIZES | {"backbone", "strides", "dilation", "spatial_init"}


def describe(source: str | Path) -> dict[str, str]:
    """Describe a model source. Returns a dict of line title → text."""
    path = find_checkpoint(source)
    if path is not None and exported.claims(path):
        return describe_export(source, exported.read_exported(path))
    if path is None:
        model = create_model(str(source), pretrained_backbone=False).eval()
        origin = "model name; the classes come from the training data"
    else:
        checkpoint = read_checkpoint(path)
        model, origin = checkpoint.build(), f"{checkpoint.kind} {path}"
    config, image = model.config, model.preprocessor
    choices = [field for field in ModelConfig.model_fields if field not in ELSEWHERE | unused_fields(config).keys()]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    height, width = Preprocessor(image).size_hw(LANDSCAPE)
    work = multiply_adds(model, height, width) / 1e9
    return {
        "source": str(source),
        "kind": origin,
        "network": f"{config.backbone} at stride {config.finest_stride}, width {config.hidden_dim}, "
        f"{config.num_heads} heads, {config.encoder_layers} encoder and {config.decoder_layers} decoder layers",
        "choices": ", ".join(f"{field} {str(getattr(config, field)).lower()}" for field in choices),
        "queries": str(config.num_queries),
        "classes": str(len(model.class_names)) if path is None else _some_names(model.class_names),
        "input": _input(image),
        "parameters": f"{trainable:,} trainable, {frozen:,} frozen",
        "compute": f"{work:.1f} G multiply-adds for an image of {width} x {height} px",
    }


def describe_export(source: str | Path, export: exported.Exported) -> dict[str, str]:
    """Describe an exported folder, including the result in its `proof.json`."""
    proof = exported.read_proof(export.graph.parent)
    verdict = {True: "passed", False: "NOT passed", None: "no AP was compared"}.get(proof.get("passed"), "damaged")
    ap = proof.get("AP") or {}
    if ap.get("exported") is not None:
        verdict += f", AP {ap['original']:.4f} → {ap['exported']:.4f} on {proof['images']} images of {proof['data']}"
    return {
        "source": str(source),
        "kind": f"export to {export.format} in {export.precision}, {export.graph}",
        "proof": verdict if proof else f"{exported.PROOF} is missing",
        "queries": str(export.config.num_queries),
        "classes": _some_names(export.class_names),
        "input": _input(export.preprocessor),
    }


def _some_names(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names[:12])}" + (f", … ({len(names) - 12} more)" if len(names) > 12 else "")


def _input(image: PreprocessorConfig) -> str:
    return f"shorter side {image.imgsz} px, longer side at most {image.longest} px"


@torch.no_grad()
def multiply_adds(model: DetectionModel, height: int, width: int) -> int:
    """Number of multiply-adds for one image of the given size in px, counted by PyTorch."""
    images = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    # Detached, because the counter adds hooks to tensors that require gradients.
    detached = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        functional_call(model, detached, (images,))
    return int(counter.get_total_flops()) // 2
