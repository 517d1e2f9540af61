"""`cdetr bench`."""

from typing import Annotated

from cyclopts import Parameter

from conditional_detr.cli.printing import print_table
from conditional_detr.errors import ConfigError


def bench(
    *sources: str,
    images: Annotated[list[str] | None, Parameter(negative="")] = None,
    rounds: int = 20,
    batch: int = 8,
    runtime: str = "auto",
    device: str = "auto",
    threads: int = 0,
) -> None:
    """Measure latency, throughput and memory of several sources, side by side on the same images.

    Parameters
    ----------
    sources
        What any verb takes, exported folders too. A transformers folder is run by transformers as well, if that is installed.
    images
        Files, folders or patterns; by default synthetic images of 640 x 480 px.
    rounds
        Images one by one, the sources taking turns.
    batch
        Images a batch while images per second are measured.
    runtime
        auto, torch, onnx or openvino.
    device
        auto, cpu, cuda, cuda:1, mps.
    threads
        Processor threads of each; 0 = as many as there are.
    """
    if not sources:
        raise ConfigError("bench needs sources: cdetr bench SOURCE…")
    from conditional_detr.bench.measure import bench as run_bench
    from conditional_detr.bench.measure import table
    from conditional_detr.bench.runners import Execution
    from conditional_detr.inference.predict import find_images

    files = find_images(images) if images else []
    print_table(*table(run_bench(sources, files, rounds, batch, Execution(runtime, device, threads))))
    shown = f"{len(files)} images" if files else "synthetic images of 640 x 480 px"
    print(f"median of {rounds} turns on {shown}, from file to boxes; images/s in batches of {batch}")
