"""AdamW with the backbone apart, and how the learning rate moves."""

import math

import torch
from torch import nn

from conditional_detr.config import RecipeConfig

FINAL_COSINE = 0.02


def build_optimizer(model: nn.Module, recipe: RecipeConfig, helper: nn.Module | None = None) -> torch.optim.AdamW:
    """AdamW over two groups: everything but the backbone, and the backbone at its own rate (0 freezes it)."""
    backbone = [(n, p) for n, p in model.named_parameters() if n.startswith("backbone.")]
    if recipe.lr_backbone == 0:
        for _, parameter in backbone:
            parameter.requires_grad_(False)
    rest = [p for n, p in model.named_parameters() if not n.startswith("backbone.") and p.requires_grad]
    rest += [] if helper is None else list(helper.parameters())
    groups = [{"params": rest, "lr": recipe.lr, "base_lr": recipe.lr}]
    if trainable := [p for _, p in backbone if p.requires_grad]:
        groups.append({"params": trainable, "lr": recipe.lr_backbone, "base_lr": recipe.lr_backbone})
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)


def lr_factor(step: int, steps_per_epoch: int, recipe: RecipeConfig) -> float:
    """What the learning rates are multiplied by at an optimisation step.

    A linear warm-up; then "step": a tenth after `drop_at` of the epochs, changed between epochs only (the paper's), or
    "cosine": half a cosine down to 2 %.
    """
    warmup = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.schedule == "step":
        return warmup * (0.1 if step // steps_per_epoch >= round(recipe.drop_at * recipe.epochs) else 1.0)
    progress = min(1.0, step / max(1, steps_per_epoch * recipe.epochs))
    return warmup * (FINAL_COSINE + (1 - FINAL_COSINE) * (1 + math.cos(math.pi * progress)) / 2)
