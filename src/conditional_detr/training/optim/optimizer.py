"""AdamW with the backbone apart, and how the learning rate moves."""

import math

import torch
from torch import nn

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.errors import ConfigError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.backbone.timm_backbone import Backbone

FINAL_COSINE = 0.02
LONGEST_WARMUP = 0.1  # of a run


def build_optimizer(model: DetectionModel, recipe: RecipeConfig, auxiliaries: nn.Module | None = None) -> torch.optim.AdamW:
    """AdamW over groups: everything but the backbone, the backbone at its own rate (0 freezes it), and modules with a rate of
    their own: those whose class has an attribute `lr_scale`, the multiple of the learning rate.

    The first `freeze` stages of the backbone are frozen.
    """
    freeze_stages(model.backbone, recipe.freeze)
    if recipe.lr_backbone == 0:
        model.backbone.requires_grad_(False)
    backbone = set(model.backbone.parameters())
    scales = scaled_parameters(model)
    parts: dict[str | float, list[nn.Parameter]] = {1.0: [], "backbone": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parts.setdefault("backbone" if parameter in backbone else scales.get(parameter, 1.0), []).append(parameter)
    parts[1.0] += [] if auxiliaries is None else list(auxiliaries.parameters())
    rates = {part: recipe.lr_backbone if isinstance(part, str) else recipe.lr * part for part in parts}
    groups = [{"params": parts[part], "lr": rate, "base_lr": rate} for part, rate in rates.items() if parts[part]]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)


def scaled_parameters(model: nn.Module) -> dict[nn.Parameter, float]:
    """Parameters of modules with an `lr_scale`, and the multiple: the innermost module's."""
    scales: dict[nn.Parameter, float] = {}
    for module in model.modules():  # outer ones come first
        if (scale := getattr(module, "lr_scale", None)) is not None:
            scales |= dict.fromkeys(module.parameters(), float(scale))
    return scales


def freeze_stages(backbone: Backbone, stages: int) -> None:
    """Take the gradient from all weights up to the end of a stage; the stem belongs to the first one.

    What is frozen costs no backward pass: the first stages are the finest, and the dearest.
    """
    if not stages:
        return
    ends = [info["module"] for info in backbone.body.feature_info.info]  # type: ignore[union-attr]
    if stages > len(ends):
        raise ConfigError(f"the backbone has {len(ends)} stages: freeze cannot be {stages}")
    end, modules = ends[stages - 1], list(backbone.body.named_modules())
    last = max(i for i, (name, _) in enumerate(modules) if name == end or name.startswith(f"{end}."))
    for _, module in modules[: last + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def lr_factor(step: int, share_done: float, recipe: RecipeConfig) -> float:
    """What the learning rates are multiplied by at an optimisation step.

    A linear warm-up, over a tenth of the run at most; then "step": a tenth after `lr_drop_at` of the run (the paper's), or
    "cosine": half a cosine down to 2 %.

    Parameters
    ----------
    step : steps before this one
    share_done : of the run, in [0, 1]
    recipe : `warmup_steps`, `schedule` and `lr_drop_at` are read
    """
    warmup = min(1.0, max((step + 1) / recipe.warmup_steps, share_done / LONGEST_WARMUP)) if recipe.warmup_steps else 1.0
    if recipe.schedule == "step":
        return warmup * (0.1 if share_done >= recipe.lr_drop_at else 1.0)
    return warmup * (FINAL_COSINE + (1 - FINAL_COSINE) * (1 + math.cos(math.pi * share_done)) / 2)
