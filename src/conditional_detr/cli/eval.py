"""`cdetr eval`."""

import sys
from pathlib import Path

from conditional_detr.cli.printing import make_folder, note_doubts, print_metrics, write_json


def evaluate(
    source: str,
    /,
    *,
    data: str,
    split: str = "valid",
    batch: int = 8,
    device: str = "auto",
    threads: int = 0,
    output: Path = Path("evaluation"),
) -> None:
    """Print COCO's twelve figures and AP per class; write metrics.json and report.html.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, exported folder, Hugging Face folder, .pth, model name or Hub id.
    data
        COCO, YOLO, Pascal VOC or imagefolder.
    split
        train, valid or test.
    batch
        Images a batch; moves no figure.
    device
        auto, cpu, cuda, cuda:1, mps.
    threads
        Processor threads; 0 = as many as there are.
    output
        Folder for metrics.json and report.html.
    """
    make_folder(output)
    from conditional_detr.device.threads import set_threads
    from conditional_detr.evaluation.coco import evaluation_of
    from conditional_detr.evaluation.report import facts, write_report
    from conditional_detr.storage.run_files import BEST_FIGURES, REPORT

    note_doubts(source)
    set_threads(threads)
    evaluation = evaluation_of(source, data, split, batch, device)
    print_metrics(evaluation.metrics)
    for line in (*evaluation.index.report, *(f"left out: {reason}" for reason in evaluation.skipped.values())):
        print(line, file=sys.stderr)
    if evaluation.note:
        print(evaluation.note)
    write_json(output / BEST_FIGURES, evaluation.metrics.to_dict())
    write_report(evaluation, output / REPORT, f"{source} on {data}", facts(evaluation, source, data))
    print(f"→ {output / BEST_FIGURES}, {output / REPORT}")
