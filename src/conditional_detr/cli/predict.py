"""`cdetr predict`."""

from collections import Counter
from pathlib import Path
from typing import Annotated

from conditional_detr.cli.parameters import (
    STORED_THRESHOLDS,
    Batch,
    Device,
    Output,
    Overlap,
    Source,
    Threads,
    Tile,
    argument,
    option,
)
from conditional_detr.cli.printing import print_note, print_source_notes, print_text, track
from conditional_detr.errors import ConditionalDETRError, plural, shortened_list

Conf = Annotated[
    float | None,
    option(
        "Model",
        "Score threshold. Detections with a lower score are dropped.",
        "SCORE",
        STORED_THRESHOLDS,
    ),
]


def predict(
    source: Source,
    /,
    *images: Annotated[str, argument("Image files, folders, patterns such as 'new/*.jpg', or URLs.")],
    conf: Conf = None,
    tile: Tile = None,
    overlap: Overlap = None,
    batch: Batch = 8,
    device: Device = "auto",
    threads: Threads = 0,
    output: Output = Path("predictions"),
) -> None:
    """Detect objects in images. Writes the images with boxes, and predictions.json."""
    from conditional_detr.weights.recognise import find_checkpoint

    find_checkpoint(source)
    from conditional_detr.inference.predict import find_images
    from conditional_detr.inference.predict import predict as run_prediction

    files = find_images(images, print_note)
    from conditional_detr.device.threads import set_threads
    from conditional_detr.inference.detector import Detector
    from conditional_detr.inference.results import threshold_text
    from conditional_detr.storage.run_files import PREDICTIONS, RENAMED

    print_source_notes(source)
    set_threads(threads)
    detector = Detector(source, device=device, tile=tile, overlap=overlap)
    done = run_prediction(detector, files, output, conf, batch, track)
    for sentence in done.unreadable:
        print_note(f"left out: {sentence}")
    if done.unreadable:
        print_note(f"{len(done.unreadable)} of {len(files)} inputs could not be read")
    if not done.read:
        raise ConditionalDETRError("none of the inputs could be read as an image")
    print_text(
        f"{plural(len(done.rows), 'detection')} in {plural(done.read, 'image')}, {threshold_text(detector.model, conf)}", "bold"
    )
    if done.rows:
        counts = Counter(row["category_name"] for row in done.rows).most_common()
        print_text("by class: " + ", ".join(f"{count} × {name}" for name, count in counts))
    else:
        print_text("Nothing was detected. A lower --conf also shows detections with lower scores.")
    if done.renamed:
        names = shortened_list((f"{name} shows {image}" for name, image in done.renamed.items()), 10)
        print_text(f"Added a number to names that were used already: {names}. {output / RENAMED} has all of them")
    if done.others:
        print_note(f"{output} also contains {plural(done.others, 'other JPEG image')}, not written by this call")
    print_text(f"Wrote {plural(done.read, 'image')} with boxes and {PREDICTIONS} to {output}")
