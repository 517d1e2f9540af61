"""`cdetr export`."""

from pathlib import Path
from typing import Annotated, Any

from conditional_detr.cli.parameters import FORMATS, Split, Threads, TorchSource, argument, option
from conditional_detr.cli.printing import print_facts, print_next, print_note, print_source_notes, print_written


def export(
    source: TorchSource,
    output: Annotated[Path, argument("Folder for the export. predict, eval and bench accept it like any model.")],
    /,
    *,
    data: Annotated[
        str | None,
        option(
            "Data",
            f"Data set for the proof: {FORMATS}. The AP of the model and of its export are compared on it.",
            "DIR",
            "synthetic images; no AP is compared, so the check cannot fail",
        ),
    ] = None,
    split: Split = "valid",
    max_drop: Annotated[
        float | None, option("Data", "Largest drop in AP that passes the proof.", "AP", "0.005; 0.01 for int8")
    ] = None,
    format: Annotated[
        str, option("Model", "Format: openvino, onnx, or web: a page that runs the model in a browser.", "NAME")
    ] = "openvino",
    precision: Annotated[
        str,
        option(
            "Model",
            "Precision. fp32: as the model. bf16: 16-bit weights, half the size; with openvino also faster if the processor "
            "supports bfloat16. int8: 8-bit, calibrated on the training images of --data.",
            "NAME",
        ),
    ] = "bf16",
    opset: Annotated[
        int | None,
        option("Model", "Operator set of ONNX, 16 to 20. Older engines, such as TensorRT 8, need 16 to 18.", "N", "20"),
    ] = None,
    threads: Threads = 0,
) -> None:
    """Export a model for ONNX Runtime or OpenVINO, and check with --data that its AP does not drop."""
    import json

    from conditional_detr.cli.heartbeat import Heartbeat

    with Heartbeat("loading libraries") as report:
        from conditional_detr.device.threads import set_threads
        from conditional_detr.exporting.export import export as run_export
        from conditional_detr.weights.exported import PROOF

        print_source_notes(source)
        set_threads(threads)
        if precision == "int8" and data is None:
            print_note("int8 is calibrated on synthetic images, which may differ from yours. Give --data DIR to use your own.")
        folder = run_export(source, output, format, precision, data, max_drop, split, report, opset)
    proof = json.loads((folder / PROOF).read_text(encoding="utf-8"))
    if proof["calibrated_on"] == f"the split {split}, which the proof is of too":
        print_note("int8 was calibrated on the images of the proof, because there are no training images")
    if "fault" in proof:
        print_note(proof["fault"])
    else:
        print_facts(_proof_lines(proof, data, split))
    print_written(output, output / PROOF)
    if format == "web":
        print_next("open the page", "python", "-m", "http.server", "--bind", "127.0.0.1", "--directory", output, "8000")
    else:
        print_next("use the export", "cdetr", "predict", output, "IMAGES")


def _proof_lines(proof: dict[str, Any], data: str | None, split: str) -> dict[str, str]:
    """The contents of a proof in words."""
    boxes, latency = proof["boxes"], proof["latency_ms"]
    lines = {"proof": _verdict(proof, data, split)}
    if boxes["original"]:
        lines["matched boxes"] = (
            f"{boxes['matched']} of {boxes['original']} (score {boxes['score']} or more) are found again with the same class "
            f"at IoU {boxes['iou']} or more"
        )
    if difference := boxes["score_difference"]:
        lines["differences"] = (
            f"of matched boxes: lowest IoU {boxes['least_iou']:.3f}, scores differ by at most {difference['max']:.4f} "
            f"(mean {difference['mean']:.4f})"
        )
    counts = f"{boxes['original']} of the model, {boxes['exported']} of the export"
    lines["all boxes"] = f"with a score of {boxes['score']} or more: {counts}"
    lines["latency"] = f"{latency['original']:.1f} → {latency['exported']:.1f} ms per image"
    lines["engine"] = proof["run_by"]
    return lines


def _verdict(proof: dict[str, Any], data: str | None, split: str) -> str:
    ap = proof["AP"]
    compared = f"{proof['images']} {'synthetic images' if data is None else f'images of {data}, {split}'}"
    if data is None:
        text = f"no AP was compared, because {compared} were used; give --data DIR to compare the AP on yours"
    elif ap["original"] is None:
        text = f"no AP was compared: there are no objects in {compared}"
    elif not ap["original"]:
        text = f"no AP was compared: the model finds nothing in {compared}"
    else:
        text = (
            f"passed: AP {ap['original']:.4f} → {ap['exported']:.4f}, a drop of {ap['drop']:.4f} (limit {ap['max_drop']:g}), "
            f"on {compared}"
        )
    return text + (f"; {proof['unreadable']} more images cannot be read" if proof["unreadable"] else "")
