"""`cdetr explain`."""

from pathlib import Path

from conditional_detr.cli.printing import note_doubts
from conditional_detr.errors import ConfigError


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
    """Show where each detection's query looked: cross-attention by head and layer, as images and arrays.

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
        raise ConfigError(f"explain takes one image, not {image}; predict takes folders and patterns")
    if output.is_file():
        raise ConfigError(f"{output} is a file: --output wants a folder")
    from conditional_detr.device.threads import set_threads
    from conditional_detr.explaining.maps import explain as run_explanation
    from conditional_detr.images.decoding import decode

    rgb = decode(image).permute(1, 2, 0).numpy()
    note_doubts(source)
    set_threads(threads)
    explanations = run_explanation(source, rgb, conf, device)
    if not explanations:
        print(f"nothing was found with a score of {conf} or more: a lower --conf explains what the model is less sure of")
        return
    from conditional_detr.explaining.figures import write_explanations

    print(f"{len(explanations)} detections with a score of {conf} or more, best first")
    for found, file in zip(explanations, write_explanations(rgb, explanations, output), strict=True):
        x0, y0, x1, y1 = found.box
        print(f"{found.class_name} {found.score:.2f} at x {x0:.0f}–{x1:.0f}, y {y0:.0f}–{y1:.0f} px → {file}", flush=True)
    print(f"beside each: all layers (-layers.png) and the maps as arrays (.npz), in {output}")
