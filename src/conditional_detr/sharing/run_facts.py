"""Read the facts for a model card from a model and from the run folder that it lies in."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from conditional_detr.config.messages import build
from conditional_detr.config.presets import PRESETS, preset
from conditional_detr.config.run import RunConfig
from conditional_detr.config.toml import read_toml
from conditional_detr.errors import RunError
from conditional_detr.evaluation.compare_runs import best_row, read_rows
from conditional_detr.factory.build import DetectionModel
from conditional_detr.sharing.facts import Facts, ModelFacts, Results, SplitFacts, Start, Statements, Training
from conditional_detr.storage.hub import is_cached
from conditional_detr.storage.json import read_json_object
from conditional_detr.storage.run_files import BEST_FIGURES, CONFIG, FINGERPRINT, METRICS
from conditional_detr.weights.recognise import DESCRIPTION, is_hub_id, shipped

IMAGENET_LICENCES = {"tf_efficientnet_lite0.in1k": "apache-2.0"} | {
    f"resnet{depth}.tv_in1k": "bsd-3-clause" for depth in (18, 34, 50, 101, 152)
}  # as their pages on the Hub say
BUNDLED_LICENCE = "apache-2.0"


def run_of(checkpoint: Path) -> Path | None:
    """The run folder whose `best/` a checkpoint is, if the run has finished; None for all other checkpoints.

    The metrics of a run belong to `best/` only.
    """
    run = checkpoint.absolute().parent
    is_best = checkpoint.absolute().name in ("best", ".best.old")
    return run if is_best and (run / CONFIG).is_file() and (run / BEST_FIGURES).is_file() else None


def facts_of(model: DetectionModel, repo: str, format: str, stated: Statements, run: Path | None) -> Facts:
    """Collect the facts for a card.

    Parameters
    ----------
    model : the model
    repo : its Hub id
    format : format of the files, "huggingface" or "native"
    stated : what its owner says
    run : the folder of its run; None = no run is known

    Raises
    ------
    ConfigError, RunError : a file of the run folder is damaged
    """
    own = ModelFacts(
        config=model.config,
        preprocessor=model.preprocessor,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        class_names=model.class_names,
        thresholds=model.thresholds,
        nms_iou=model.nms_iou,
    )
    if run is None:
        return Facts(repo, format, own, stated, stated.data_name)
    config = build(RunConfig, read_toml(run / CONFIG), str(run / CONFIG))
    mark = read_json_object(run / FINGERPRINT, RunError) if (run / FINGERPRINT).is_file() else {}
    return Facts(
        repo,
        format,
        own,
        stated,
        stated.data_name or folder_name(config.data),
        _splits(mark, model.category_ids, run / FINGERPRINT),
        results_of(read_json_object(run / BEST_FIGURES, RunError), model),
        _training(run, config, str(mark.get("versions", ""))),
    )


def folder_name(path: str) -> str | None:
    """Last part of a path of any operating system. The rest says where the data lie on somebody's machine.

    >>> folder_name("/home/me/cells"), folder_name("D:\\\\data\\\\cells"), folder_name(".")
    ('cells', 'cells', None)
    """
    return PureWindowsPath(path).name or None


def _splits(mark: Mapping[str, Any], category_ids: Sequence[int], file: Path) -> dict[str, SplitFacts]:
    """The contents of the splits, as far as a fingerprint has them."""
    try:
        return {name: _split(content, category_ids) for name, content in mark.get("counts", {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RunError(f"{file} is damaged: 'counts' must have the images and objects of each split") from None


def _split(content: Mapping[str, Any], category_ids: Sequence[int]) -> SplitFacts:
    objects = content["objects_by_category_id"]
    shorter, longer = ([int(side) for side in content[key]] for key in ("shorter_side_px", "longer_side_px"))
    return SplitFacts(
        images=int(content["images"]),
        objects=int(content["objects"]),
        objects_by_class=[int(objects.get(str(id_), 0)) for id_ in category_ids],
        shorter_side_px=(shorter[0], shorter[1], shorter[2]),
        longer_side_px=(longer[0], longer[1], longer[2]),
    )


def results_of(content: Mapping[str, Any], model: DetectionModel) -> Results:
    """Read a `metrics.json`. A value that is no finite number counts as missing."""
    by_name, intervals = (
        {} if not isinstance(value, dict) else value for value in (content.get("per_class"), content.get("intervals"))
    )
    classes = zip(model.class_names, model.category_ids, strict=True)
    return Results(
        figures={name: _number(value) for name, value in content.items()},
        intervals={name: bounds for name, value in intervals.items() if (bounds := _bounds(value))},
        # Names that several categories have are followed by the id.
        ap_by_class=[_number(by_name.get(f"{name} (id {id_})", by_name.get(name))) for name, id_ in classes],
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _bounds(value: Any) -> tuple[float, float] | None:
    numbers = [_number(bound) for bound in value] if isinstance(value, list) else []
    low, high = numbers if len(numbers) == 2 else (None, None)
    return None if low is None or high is None else (low, high)


def _training(run: Path, config: RunConfig, versions: str) -> Training:
    rows = read_rows(run / METRICS)
    best, recipe = best_row(rows), config.training
    settings = {
        "image size": f"shorter side {config.imgsz} px",
        "batch size": str(recipe.batch),
        "learning rate": f"{recipe.lr:g} (backbone {recipe.lr_backbone:g}), {recipe.schedule} schedule",
        "seed": str(config.seed),
    }
    return Training(
        recipe=config.recipe,
        epochs=len(rows),
        best_epoch=best["epoch"] if best["AP"] is not None else None,
        seconds=sum(row["seconds"] for row in rows),
        settings=settings,
        start=start_of(config),
        versions=versions,
    )


def start_of(config: RunConfig) -> Start:
    """Where the initial weights of a run come from. Of a path, only the last part is kept."""
    source = config.training.init_from if config.model in PRESETS else config.model
    if source in shipped():
        return Start(f"{source}, bundled with conditional-detr", BUNDLED_LICENCE)
    if source:
        if is_hub_id(source) and not Path(source.split("/")[0]).exists() and is_cached(source, DESCRIPTION):
            return Start(f"{source}, on the Hugging Face Hub", hub_id=source)
        return Start(f"another trained model, {folder_name(source) or 'unnamed'}")
    if not config.pretrained_backbone:
        return Start("random weights", is_random=True)
    backbone = str(config.model_overrides.get("backbone", preset(config.model).model.backbone))
    return Start(f"ImageNet weights of the backbone, timm {backbone}", IMAGENET_LICENCES.get(backbone))
