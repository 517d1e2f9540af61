"""`cdetr bench`."""

from typing import Annotated

from cyclopts import Parameter

from conditional_detr.cli.parameters import GROUP, Device, Threads, argument, option
from conditional_detr.cli.printing import print_table, print_text, track

Images = Annotated[
    list[str] | None,
    Parameter(
        help="Image files, folders or patterns to measure on.",
        group=GROUP["Data"],
        metavar="IMAGES",
        show_default="synthetic images of 640 x 480 px",
        negative="",
    ),
]


def bench(
    *sources: Annotated[
        str,
        argument("Models to compare, as for predict. A Hugging Face folder is also run by transformers, if it is installed."),
    ],
    images: Images = None,
    rounds: Annotated[int, option("Data", "Images per model for the latency, one at a time. The models take turns.", "N")] = 20,
    batch: Annotated[int, option("Hardware", "Batch size for the throughput (images per second).", "N")] = 8,
    runtime: Annotated[str, option("Hardware", "Runtime: auto, torch, onnx or openvino.", "NAME")] = "auto",
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Measure latency, throughput and peak memory of several models, side by side on the same images."""
    from conditional_detr.bench.measure import bench as run_bench
    from conditional_detr.bench.measure import table
    from conditional_detr.bench.runners import Execution
    from conditional_detr.inference.predict import find_images

    files = find_images(images) if images else []
    columns, rows = table(run_bench(sources, files, rounds, batch, Execution(runtime, device, threads), track))
    stages = columns.index("peak MB") + 1
    print_table(columns[:stages], [row[:stages] for row in rows])
    print_table([columns[0], *columns[stages:]], [[row[0], *row[stages:]] for row in rows])
    shown = f"{len(files)} images" if files else "synthetic images of 640 x 480 px"
    print_text(f"Latency: median of {rounds} rounds on {shown}, from file to boxes. Throughput: batch size {batch}.")
