"""`cdetr explain`."""

from pathlib import Path
from typing import Annotated

from conditional_detr.cli.parameters import Device, Output, Threads, TorchSource, argument, option
from conditional_detr.cli.printing import print_source_notes, print_text
from conditional_detr.errors import ConfigError, plural


def explain(
    source: TorchSource,
    image: Annotated[str, argument("One image file or URL.")],
    /,
    *,
    conf: Annotated[
        float, option("Model", "Score threshold. Only detections with at least this score are explained.", "SCORE")
    ] = 0.3,
    device: Device = "auto",
    threads: Threads = 0,
    output: Output = Path("explanation"),
) -> None:
    """Show where the model looked for each detection: cross-attention of every head and layer, as images and arrays."""
    if Path(image).is_dir() or "*" in image:
        raise ConfigError(f"explain takes one image, not {image}; predict takes folders and patterns")
    if output.is_file():
        raise ConfigError(f"{output} is a file: --output needs a folder")
    from conditional_detr.device.threads import set_threads
    from conditional_detr.explaining.maps import explain as run_explanation
    from conditional_detr.images.decoding import decode

    rgb = decode(image).permute(1, 2, 0).numpy()
    print_source_notes(source)
    set_threads(threads)
    explanations = run_explanation(source, rgb, conf, device)
    if not explanations:
        print_text(f"No detection has a score of {conf} or more. A lower --conf explains detections with lower scores.")
        return
    from conditional_detr.explaining.figures import write_explanations

    print_text(f"{plural(len(explanations), 'detection')} with a score of {conf} or more, highest score first", "bold")
    for found, file in zip(explanations, write_explanations(rgb, explanations, output), strict=True):
        x0, y0, x1, y1 = found.box
        print_text(f"{found.class_name} {found.score:.2f} at x {x0:.0f}–{x1:.0f}, y {y0:.0f}–{y1:.0f} px → {file}")
    print_text(f"{output} also has all layers of each detection (-layers.png) and the attention maps as arrays (.npz).")
