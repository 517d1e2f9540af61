"""Pre-training without labels, on any folder of images."""

from pathlib import Path
from typing import Any

from conditional_detr.config.presets import PRESETS
from conditional_detr.errors import ConfigError
from conditional_detr.pretraining.task import Pretraining
from conditional_detr.training.execution.starting_process import refuse_in_starting_process
from conditional_detr.training.prepare import prepared_run
from conditional_detr.training.setup.resolve import requested
from conditional_detr.training.trainer import Run, Trainer

MOST_PATCHES = 1000  # per image
PATCHES, IMGSZ = 10, 480  # of UP-DETR: patches per image; largest shorter side, px
# Settings that pre-training changes in every recipe. The backbone is frozen, and what needs classes is off.
ALL = {"lr_backbone": 0.0, "epochs": 60, "dense_aux_weight": 0.0, "query_groups": 1, "class_loss": "model", "freeze": 0}
ALL |= {"init_from": "", "progressive_resize_from": 1.0, "weight_average": 0.0}
PAPER = {"lr": 1e-4, "batch": 256, "lr_drop_at": 40 / 60}  # released code of UP-DETR
FAST = {"batch": 8}


def pretrain(
    data: str | Path,
    model: str = "up-detr-tiny",
    output: str | Path = "runs/pretrain",
    patches: int | None = None,
    **options: Any,
) -> Run:
    """Pre-train a detector on images without labels: it learns to find random patches of an image.

    For `up-detr-*` and `detr-*` a patch is added to the object queries of its group, as in UP-DETR. For the other families it
    is the first decoder embedding of these queries instead. The backbone has supervised ImageNet weights, UP-DETR's has SwAV's.

    Source: UP-DETR (Dai et al., CVPR 2021).

    Parameters
    ----------
    data : folder of images, which is searched with its subfolders. Every 20th image, but at most 200, are held out to measure
        how well patches are found
    model : model name
    output : run folder; its checkpoints are a source for `train`
    patches : number of patches per image; the queries are divided among them; None = 10
    options : as for `train`: epochs (default 60), minutes, batch, lr, imgsz, seed, resume, device, workers, threads, quiet,
        pretrained_backbone, model_overrides

    Returns
    -------
    Run

    Raises
    ------
    ConfigError, DataError, UnavailableError, RunError
    KeyboardInterrupt : after Ctrl-C or SIGTERM, once `last/` is saved
    """
    refuse_in_starting_process()
    overrides = options.pop("model_overrides", {})
    patches = _patches(patches, overrides.get("patches"))
    usual = PRESETS[model].recipe if model in PRESETS else "paper"
    if options.get("recipe") not in (None, usual):
        raise ConfigError(f"pre-training has no recipes: recipe = {options['recipe']!r} cannot be set")
    fixed = {key: options.pop(key) for key in ALL.keys() & options.keys() - {"epochs"}}
    asked = options.pop("recipe_overrides", {}) | {key: value for key, value in fixed.items() if value is not None}
    if refused := [key for key in (ALL.keys() & asked.keys()) - {"epochs"} if asked[key] != ALL[key]]:
        raise ConfigError(f"{', '.join(sorted(refused))} cannot be changed in pre-training")
    values = {"imgsz": IMGSZ} if usual == "paper" else {}
    recipe = ALL | (PAPER if usual == "paper" else FAST) | asked
    recipe |= {key: options.pop(key) for key in ("epochs", "minutes", "batch", "lr") if options.get(key) is not None}
    given = {"data": data, "model": model, "output": output, "recipe_overrides": recipe}
    given["model_overrides"] = overrides | {"patches": patches}
    with prepared_run(requested({**values, **given, **options}, "pretrain"), Pretraining()) as prepared:
        return Trainer(prepared).fit()


def _patches(given: Any, overridden: Any) -> int:
    """The number of patches per image, from either argument."""
    if given is not None and overridden not in (None, given):
        raise ConfigError(f"patches = {given} and model.patches = {overridden} differ: give one of them")
    patches = next((value for value in (given, overridden) if value is not None), PATCHES)
    if isinstance(patches, bool) or not isinstance(patches, int) or not 1 <= patches <= MOST_PATCHES:
        raise ConfigError(f"patches must be a whole number from 1 to {MOST_PATCHES}, not {patches!r}")
    return patches
