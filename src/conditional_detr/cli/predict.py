"""The verb that detects."""

import sys
from pathlib import Path

from conditional_detr.cli.printing import note_doubts
from conditional_detr.errors import ConditionalDETRError, ConfigError


def predict(
    source: str,
    /,
    *images: str,
    conf: float | None = None,
    batch: int = 8,
    device: str = "auto",
    threads: int = 0,
    output: Path = Path("predictions"),
) -> None:
    """Detect in images; write them with boxes, and predictions.json.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, exported folder, Hugging Face folder, .pth, model name or Hub id.
    images
        Files, folders, patterns or URLs.
    conf
        Lowest score that is kept. Default: for each class what was learned on the validation split, else 0.3.
    batch
        Images a batch; moves no result.
    device
        auto, cpu, cuda, cuda:1, mps.
    threads
        Processor threads; 0 = as many as there are.
    output
        Folder for what is written.
    """
    from conditional_detr.weights.discovery import find_checkpoint

    if not images:
        raise ConfigError("predict needs images: cdetr predict SOURCE IMAGES… (files, folders, patterns or URLs)")
    find_checkpoint(source)
    from conditional_detr.inference.predict import find_images
    from conditional_detr.inference.predict import predict as run_prediction

    files = find_images(images)
    from conditional_detr.device.threads import set_threads
    from conditional_detr.inference.detector import Detector
    from conditional_detr.inference.results import lowest_score

    note_doubts(source)
    set_threads(threads)
    detector = Detector(source, device=device)
    done = run_prediction(detector, files, output, conf, batch)
    for sentence in done.unreadable:
        print(f"left out: {sentence}", file=sys.stderr)
    if done.unreadable:
        print(f"{len(done.unreadable)} of {len(files)} inputs could not be read", file=sys.stderr)
    if not done.read:
        raise ConditionalDETRError("none of the inputs could be read as an image")
    hint = "" if done.rows else ". A lower --conf shows what it is less sure of"
    print(f"{len(done.rows)} objects at {lowest_score(detector.model, conf)} in {done.read} images → {output}{hint}")
