"""`cdetr eval`."""

from pathlib import Path

from conditional_detr.cli.parameters import Batch, Data, Device, Output, Overlap, Source, Split, Threads, Tile
from conditional_detr.cli.printing import (
    make_folder,
    print_metrics,
    print_note,
    print_source_notes,
    print_text,
    print_written,
    track,
    write_json,
)


def evaluate(
    source: Source,
    /,
    *,
    data: Data,
    split: Split = "valid",
    tile: Tile = None,
    overlap: Overlap = None,
    batch: Batch = 8,
    device: Device = "auto",
    threads: Threads = 0,
    output: Output = Path("evaluation"),
) -> None:
    """Evaluate a model on a data set: COCO metrics, AP of each class, and a report.

    Writes metrics.json, predictions.json (COCO results) and report.html.
    """
    make_folder(output)
    from conditional_detr.device.threads import set_threads
    from conditional_detr.evaluation.coco import evaluation_of
    from conditional_detr.evaluation.report import facts, write_report
    from conditional_detr.inference.detector import Detector
    from conditional_detr.storage.run_files import BEST_FIGURES, PREDICTIONS, REPORT

    print_source_notes(source)
    set_threads(threads)
    evaluation = evaluation_of(Detector(source, device=device, tile=tile, overlap=overlap), data, split, batch, track)
    print_text(f"{split}: {evaluation.summary}")
    for line in (*evaluation.index.report, *(f"left out: {reason}" for reason in evaluation.skipped.values())):
        print_note(line)
    if not evaluation.summary.boxes:
        print_note(f"{evaluation.index.file} has no object in the split {split}: no metric can be computed")
    print_metrics(evaluation.metrics, evaluation.coco.intervals)
    if evaluation.note:
        print_note(evaluation.note)
    write_json(output / BEST_FIGURES, evaluation.coco.to_dict())
    write_json(output / PREDICTIONS, evaluation.written_detections, indent=None)
    write_report(evaluation, output / REPORT, f"Evaluation of {source} on {data} ({split})", facts(evaluation, source, data))
    print_written(output / BEST_FIGURES, output / PREDICTIONS, output / REPORT)
