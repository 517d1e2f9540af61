"""The end of a run: evaluate the best epoch again and write the report."""

import json

from conditional_detr.config.run import RunConfig
from conditional_detr.config.toml import to_toml
from conditional_detr.data.index import SplitIndex, match_categories
from conditional_detr.errors import RunError
from conditional_detr.evaluation.coco import Evaluation, evaluation_of
from conditional_detr.evaluation.duplicates import duplicates_of
from conditional_detr.evaluation.greedy_matching import match, thresholds_by_class
from conditional_detr.evaluation.pages import duration
from conditional_detr.evaluation.report import write_report
from conditional_detr.factory.build import DetectionModel
from conditional_detr.inference.detector import Detector
from conditional_detr.storage.run_files import BEST_FIGURES, PREDICTIONS, REPORT
from conditional_detr.storage.writing import writing
from conditional_detr.training.artifacts.run_folder import RunFolder
from conditional_detr.training.artifacts.trainer_state import TrainerState


def finalize_run(folder: RunFolder, config: RunConfig, facts: dict[str, str], state: TrainerState) -> None:
    """Evaluate `best/` on the validation split; write `metrics.json`, `predictions.json` and `report.html` to the run folder.

    The score thresholds with the best F1 on this split are saved in the model, and whether duplicates are suppressed.

    Raises
    ------
    ConditionalDETRError : the evaluation failed or a file cannot be written
    """
    evaluation = evaluation_of(Detector(folder.best, device=config.device), config.data, "valid", config.training.batch)
    if isinstance(evaluation.model, DetectionModel):
        evaluation.model.thresholds = learned_thresholds(evaluation)
        evaluation.model.nms_iou = duplicates_of(evaluation).nms_iou
        folder.save_best(evaluation.model)
    for name, content, indent in (
        (BEST_FIGURES, evaluation.coco.to_dict(), 1),
        (PREDICTIONS, evaluation.written_detections, None),
    ):
        with writing(folder.path / name, RunError):
            (folder.path / name).write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")
    title = f"Training run {folder.path.resolve().name}"
    write_report(evaluation, folder.path / REPORT, title, facts, state.history, to_toml(config))


def learned_thresholds(evaluation: Evaluation) -> list[float] | None:
    """Score threshold with the best F1 for each class of the model; None if there are no correct detections."""
    model, index = evaluation.model, evaluation.index
    best = thresholds_by_class(index, match(index, evaluation.detections))
    if best is None:
        return None
    usual, scores = best
    of_category = dict(zip((category.id for category in index.categories), scores, strict=True))
    category_of = match_categories(model.class_names, model.category_ids, index.categories, str(index.file))
    return [round(of_category.get(category_of.get(label, -1), usual), 4) for label in range(len(model.class_names))]


def run_facts(
    config: RunConfig, model: DetectionModel, indices: tuple[SplitIndex, SplitIndex], state: TrainerState
) -> dict[str, str]:
    """Facts about a run for its report. `indices` are those of the training and the validation images."""
    recipe, history = config.training, state.history
    train, valid = indices
    changed = ", ".join(f"{key} = {value}" for key, value in config.model_overrides.items())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6
    seconds = sum(row["seconds"] for row in history)
    length = f"{recipe.minutes:g} minutes" if recipe.minutes else f"{recipe.epochs} epochs"
    skipped = sum(row["skipped_steps"] for row in history)
    return {
        "data": f"{config.data}: {len(train.categories)} classes; {len(train)} images with {len(train.labels)} objects for "
        f"training, {len(valid)} with {len(valid.labels)} for validation",
        "model": f"{config.model}{f' ({changed})' if changed else ''}, {trainable:.1f} M trainable parameters, "
        f"shorter side {config.imgsz} px",
        "recipe": f"{config.recipe}: batch {recipe.batch}, learning rate {recipe.lr:g} (backbone {recipe.lr_backbone:g}), "
        f"{recipe.schedule} schedule over {length}, seed {config.seed}",
        "time": f"{len(history)} epochs in {duration(seconds)}, {seconds / max(1, len(history)):.0f} s per epoch including "
        f"evaluation, on {next(model.parameters()).device.type}"
        f"{f'; {skipped} steps without a finite gradient were skipped' if skipped else ''}",
    }
