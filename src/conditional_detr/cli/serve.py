"""`cdetr serve`."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from conditional_detr.cli.parameters import GROUP, STORED_THRESHOLDS, Device, Overlap, Source, Threads, Tile, option
from conditional_detr.cli.printing import print_note, print_source_notes, print_text

TOKEN = "CDETR_TOKEN"
Names = Annotated[
    list[str] | None,
    Parameter(
        help="Name that clients may use for this machine, beside localhost.", group=GROUP["Access"], metavar="NAME", negative=""
    ),
]
Origins = Annotated[
    list[str] | None,
    Parameter(
        help="Site whose pages may send requests, such as https://example.org.",
        group=GROUP["Access"],
        metavar="ORIGIN",
        negative="",
    ),
]


def serve(
    source: Source,
    /,
    *,
    host: Annotated[str, option("Access", "Address to listen on. 0.0.0.0: all of this machine.", "HOST")] = "127.0.0.1",
    port: Annotated[int, option("Access", "Port to listen on. 0: any free one.", "PORT")] = 8000,
    token: Annotated[str, option("Access", "Token that requests must have. Better set CDETR_TOKEN.", "TOKEN", "none")] = "",
    no_auth: Annotated[
        bool, Parameter(help="Serve other machines without a token.", group=GROUP["Access"], negative="")
    ] = False,
    allow_host: Names = None,
    allow_origin: Origins = None,
    conf: Annotated[
        float | None, option("Model", "Score threshold of requests that have none of their own.", "SCORE", STORED_THRESHOLDS)
    ] = None,
    batch: Annotated[int, option("Limits", "Largest batch size.", "N")] = 8,
    max_wait: Annotated[
        float, option("Limits", "Longest time that an image waits for others to share a batch, ms.", "MS")
    ] = 5.0,
    max_bytes: Annotated[int, option("Limits", "Size of a request, bytes.", "N")] = 32_000_000,
    max_pixels: Annotated[int, option("Limits", "Pixels of an image. Frames count together.", "N")] = 50_000_000,
    max_images: Annotated[int, option("Limits", "Images in a request.", "N")] = 16,
    queue: Annotated[int, option("Limits", "Images in work at a time. Further requests are answered with 503.", "N")] = 64,
    timeout: Annotated[float, option("Limits", "Time of a request, from its first byte to its answer, seconds.", "S")] = 30.0,
    tile: Tile = None,
    overlap: Overlap = None,
    runtime: Annotated[str, option("Hardware", "Runtime: auto, torch, onnx or openvino.", "NAME")] = "auto",
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Serve a model over HTTP: POST /predict, a page at /, health, metrics and /openapi.json."""
    from conditional_detr.device.threads import set_threads
    from conditional_detr.inference.detector import Detector, check_conf
    from conditional_detr.inference.engines import import_package
    from conditional_detr.serving.limits import Limits

    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        import_package(package)
    from conditional_detr.serving.server import access_of, listen, sigterm_ends, url_of
    from conditional_detr.serving.server import serve as run_server

    secret = token or os.environ.get(TOKEN, "")
    access = access_of(host, secret, no_auth, allow_host or [], allow_origin or [])
    limits = Limits(max_bytes, max_pixels, max_images, queue, timeout, batch, max_wait)
    limits.check()
    check_conf(conf)
    print_source_notes(source)
    set_threads(threads)
    with sigterm_ends():
        detector = Detector(source, runtime, device, tile, overlap)
    opened = listen(host, port)
    where = url_of(opened)
    print_text(f"{source} at {where}", "bold")
    print_text(f"POST {where}/predict with images, or open {where}/ in a browser. Ctrl-C stops.")
    if no_auth and not secret:
        print_note("anyone who can reach this address can use the server")
    run_server(detector, Path(source).name, opened, limits, access, conf)
