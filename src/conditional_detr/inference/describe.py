"""What a model is, in words and figures."""

from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from conditional_detr.config import idle_fields
from conditional_detr.factory import DetectionModel, create_model
from conditional_detr.preprocessing import Preprocessor
from conditional_detr.weights.source import find_checkpoint, read_checkpoint

LANDSCAPE = (480, 640)
CHOICES = ("cross_attention", "spatial_query", "lambda_q", "reference_points", "box_offset", "classification")


def describe(source: str | Path) -> dict[str, str]:
    """A line for each thing worth knowing of a source: name → text."""
    path = find_checkpoint(source)
    if path is None:
        model = create_model(str(source), pretrained_backbone=False).eval()
        origin = "model name; classes are set by the data that it is trained on"
    else:
        checkpoint = read_checkpoint(path)
        model, origin = checkpoint.build(), f"{checkpoint.kind} {path}"
    config, picture = model.config, model.preprocessor
    idle = idle_fields(config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    height, width = Preprocessor(picture).size_hw(LANDSCAPE)
    work = multiply_adds(model, height, width) / 1e9
    names = model.class_names
    shown = ", ".join(names[:12]) + (f", … ({len(names) - 12} more)" if len(names) > 12 else "")
    return {
        "source": str(source),
        "kind": origin,
        "network": f"{config.backbone} at stride {config.stride}, width {config.hidden_dim}, "
        f"{config.num_heads} heads, {config.encoder_layers} encoder and {config.decoder_layers} decoder layers",
        "choices": ", ".join(f"{field} {str(getattr(config, field)).lower()}" for field in CHOICES if field not in idle),
        "queries": str(config.num_queries),
        "classes": f"{len(names)}" + ("" if path is None else f": {shown}"),
        "input": f"shorter side {picture.imgsz} px, longer side at most {picture.longest} px",
        "parameters": f"{trainable:,} trainable, {frozen:,} frozen",
        "compute": f"{work:.1f} G multiply-adds for a picture of {width} x {height} px",
    }


@torch.no_grad()
def multiply_adds(model: DetectionModel, height: int, width: int) -> int:
    """Multiply-adds of one picture of that size in px, counted by PyTorch."""
    images = torch.zeros(1, 3, height, width, device=next(model.parameters()).device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(images)
    return int(counter.get_total_flops()) // 2
