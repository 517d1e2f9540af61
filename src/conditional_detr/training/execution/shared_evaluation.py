"""Evaluation on the validation split, shared by all processes of a run."""

from collections.abc import Callable
from typing import Any

from conditional_detr.data.index import SplitIndex
from conditional_detr.evaluation.coco import CocoMetrics, coco_metrics, detections_of
from conditional_detr.factory.build import DetectionModel
from conditional_detr.training.execution.distributed import Distributed


def evaluate_together(
    model: DetectionModel,
    index: SplitIndex,
    batch: int,
    processes: Distributed,
    compute_metrics: Callable[[dict[str, Any], list[dict[str, Any]]], CocoMetrics] = coco_metrics,
) -> tuple[CocoMetrics, dict[int, str]]:
    """Evaluate a model. Each process runs detection on a part of the images; then all compute the metrics over all images.

    Parameters
    ----------
    model : model to evaluate; it is set to evaluation mode
    index : index of the validation images
    batch : batch size
    processes : the processes of the run
    compute_metrics : (ground truth, detections), both in COCO format → metrics

    Returns
    -------
    the metrics, and the images that cannot be used: position in the index → reason
    """
    model.eval()
    results, skipped = detections_of(model, index, batch, slice(processes.rank, None, processes.world))
    skipped = dict(processes.gathered(list(skipped.items())))
    return compute_metrics(index.without(skipped).ground_truth(), processes.gathered(results)), skipped
