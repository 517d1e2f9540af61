"""AdamW with a separate learning rate for the backbone, frozen stages, and the learning rate schedule."""

import math

import torch
from torch import nn

from conditional_detr.config.recipes import RecipeConfig
from conditional_detr.errors import ConfigError
from conditional_detr.factory.build import DetectionModel
from conditional_detr.model.backbone.timm_backbone import Backbone

FINAL_COSINE = 0.02  # final learning rate of the cosine schedule, relative to its start
LONGEST_WARMUP = 0.1  # maximum length of the warm-up, as a fraction of the run


def build_optimizer(model: DetectionModel, recipe: RecipeConfig, auxiliaries: nn.Module | None = None) -> torch.optim.AdamW:
    """Build AdamW with one parameter group per learning rate.

    The backbone has its own learning rate, `lr_backbone`; 0 freezes the backbone. Modules whose class has an attribute
    `lr_scale` are trained at that multiple of the learning rate. The first `freeze` stages of the backbone are frozen.

    Raises
    ------
    ConfigError : the backbone has fewer than `freeze` stages
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
    """Map the parameters of modules with an `lr_scale` to that scale. If modules are nested, the innermost one counts."""
    scales: dict[nn.Parameter, float] = {}
    for module in model.modules():  # outer modules come first
        if (scale := getattr(module, "lr_scale", None)) is not None:
            scales |= dict.fromkeys(module.parameters(), float(scale))
    return scales


def freeze_stages(backbone: Backbone, stages: int) -> None:
    """Freeze the first stages of the backbone. The stem belongs to the first stage.

    Frozen stages need no backward pass. This saves much time because the first stages work at the highest resolution.

    Raises
    ------
    ConfigError : the backbone has fewer stages
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


def lr_factor(step: int, progress_fraction: float, recipe: RecipeConfig) -> float:
    """Factor for all learning rates at an optimisation step.

    It starts with a linear warm-up over `warmup_steps`, but at most a tenth of the run. Then the schedule "step" (the
    paper's) drops to a tenth after the fraction `lr_drop_at` of the run. "cosine" follows half a cosine down to 2 %.

    Parameters
    ----------
    step : number of steps before this one
    progress_fraction : completed fraction of the run, in [0, 1]
    recipe : uses `warmup_steps`, `schedule` and `lr_drop_at`
    """
    warmup = min(1.0, max((step + 1) / recipe.warmup_steps, progress_fraction / LONGEST_WARMUP)) if recipe.warmup_steps else 1.0
    if recipe.schedule == "step":
        return warmup * (0.1 if progress_fraction >= recipe.lr_drop_at else 1.0)
    return warmup * (FINAL_COSINE + (1 - FINAL_COSINE) * (1 + math.cos(math.pi * progress_fraction)) / 2)
