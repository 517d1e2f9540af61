"""Verbs that tell how good a model or a run is, what it is, and where it looks."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from conditional_detr.console import make_folder, note_doubts, print_metrics, print_table, write_json
from conditional_detr.errors import ConfigError


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
        Pictures a batch; moves no figure.
    device
        auto, cpu, cuda, cuda:1, mps.
    threads
        Processor threads; 0 = as many as there are.
    output
        Folder for metrics.json and report.html.
    """
    make_folder(output)
    from conditional_detr.device import set_threads
    from conditional_detr.evaluation.coco import evaluation_of
    from conditional_detr.evaluation.report import facts, write_report
    from conditional_detr.training.files import BEST_FIGURES, REPORT

    note_doubts(source)
    set_threads(threads)
    evaluation = evaluation_of(source, data, split, batch, device)
    print_metrics(evaluation.metrics)
    for line in (*evaluation.index.report, *(f"left out: {reason}" for reason in evaluation.left_out.values())):
        print(line, file=sys.stderr)
    if evaluation.note:
        print(evaluation.note)
    write_json(output / BEST_FIGURES, evaluation.metrics.to_dict())
    write_report(evaluation, output / REPORT, f"{source} on {data}", facts(evaluation, source, data))
    print(f"→ {output / BEST_FIGURES}, {output / REPORT}")


def explain(
    source: str,
    image: str,
    /,
    *,
    conf: float = 0.3,
    device: str = "auto",
    threads: int = 0,
    output: Path = Path("explanation"),
) -> None:
    """Show where each detection's query looked: cross-attention by head and layer, as pictures and arrays.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, Hugging Face folder, .pth, model name or Hub id.
    image
        One file or URL.
    conf
        Lowest score of a detection that is explained.
    device
        auto, cpu, cuda, cuda:1, mps.
    threads
        Processor threads; 0 = as many as there are.
    output
        Folder for what is written.
    """
    if Path(image).is_dir() or "*" in image:
        raise ConfigError(f"explain takes one picture, not {image}; predict takes folders and patterns")
    if output.is_file():
        raise ConfigError(f"{output} is a file: --output wants a folder")
    from conditional_detr.attention_maps import explain as run_explanation
    from conditional_detr.device import set_threads
    from conditional_detr.preprocessing import decode

    rgb = decode(image).permute(1, 2, 0).numpy()
    note_doubts(source)
    set_threads(threads)
    explanations = run_explanation(source, rgb, conf, device)
    if not explanations:
        print(f"nothing was found with a score of {conf} or more: a lower --conf explains what the model is less sure of")
        return
    from conditional_detr.attention_pictures import write_explanations

    print(f"{len(explanations)} detections with a score of {conf} or more, best first")
    for found, file in zip(explanations, write_explanations(rgb, explanations, output), strict=True):
        x0, y0, x1, y1 = found.box
        print(f"{found.class_name} {found.score:.2f} at x {x0:.0f}–{x1:.0f}, y {y0:.0f}–{y1:.0f} px → {file}", flush=True)
    print(f"beside each: all layers (-layers.png) and the maps as arrays (.npz), in {output}")


def compare(
    *runs: Path,
    ap: Annotated[list[float] | None, Parameter(consume_multiple=False, negative="")] = None,
    output: Path = Path("comparison"),
) -> None:
    """Show several runs side by side: curves, and the epochs and the time to an AP.

    Parameters
    ----------
    runs
        Run folders; those that differ by seed alone become one line in a band.
    ap
        An AP to be reached; may be repeated. Default: a quarter, half and three quarters of the highest.
    output
        Folder for comparison.html, comparison.csv and curves.png.
    """
    if not runs:
        raise ConfigError("compare needs run folders: cdetr compare RUN RUN…")
    if wrong := [level for level in ap or [] if not 0 < level <= 1]:
        raise ConfigError(f"--ap must be above 0 and at most 1, not {wrong[0]:g}")
    from conditional_detr.comparison import read_groups, table, usual_levels, write_comparison

    groups = read_groups(list(runs))
    make_folder(output)
    levels = sorted(set(ap)) if ap else usual_levels(groups)
    print_table(*table(groups, levels))
    print("→ " + ", ".join(map(str, write_comparison(groups, levels, output))))


def info(source: str, /) -> None:
    """Tell what a model is: classes, size, parameters, FLOPs.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, exported folder, Hugging Face folder, .pth, model name or Hub id.
    """
    from conditional_detr.inference.describe import describe

    for name, value in describe(source).items():
        print(f"{name:<14} {value}")
