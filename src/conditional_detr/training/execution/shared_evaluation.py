"""An epoch's model judged on the validation images, by all processes of a run together."""

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
    judge: Callable[[dict[str, Any], list[dict[str, Any]]], CocoMetrics] = coco_metrics,
) -> tuple[CocoMetrics, dict[int, str]]:
    """Each process detects in its share of the images; all judge all of them.

    Parameters
    ----------
    model : is set to evaluation
    index : of the validation images
    batch : images at a time
    processes : of the run
    judge : ground truth and detections, both COCO → metrics

    Returns
    -------
    the metrics, and the images that cannot be used, by their position in the index, each with the reason
    """
    model.eval()
    results, skipped = detections_of(model, index, batch, slice(processes.rank, None, processes.world))
    skipped = dict(processes.gathered(list(skipped.items())))
    return judge(index.without(skipped).ground_truth(), processes.gathered(results)), skipped
