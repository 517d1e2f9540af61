"""`cdetr export`."""

from pathlib import Path
from typing import Annotated, Any

from conditional_detr.cli.parameters import FORMATS, Split, Threads, TorchSource, argument, option
from conditional_detr.cli.printing import note_doubts, print_facts, print_next, print_note, print_written


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
            "synthetic images, a weaker proof",
        ),
    ] = None,
    split: Split = "valid",
    max_drop: Annotated[
        float | None, option("Data", "Largest drop in AP that passes the proof.", "AP", "0.005; 0.01 for int8")
    ] = None,
    format: Annotated[str, option("Model", "Format: openvino or onnx.", "NAME")] = "openvino",
    precision: Annotated[
        str,
        option(
            "Model",
            "Precision. fp32: as the model. bf16: 16-bit weights, half the size, faster if the processor supports bfloat16. "
            "int8: 8-bit, calibrated on the training images of --data.",
            "NAME",
        ),
    ] = "bf16",
    threads: Threads = 0,
) -> None:
    """Export a model for ONNX Runtime or OpenVINO, and prove that it gives the same detections."""
    import json

    from conditional_detr.device.threads import set_threads
    from conditional_detr.exporting.export import export as run_export
    from conditional_detr.weights.exported import PROOF

    note_doubts(source)
    set_threads(threads)
    if precision == "int8" and data is None:
        print_note("int8 is calibrated on synthetic images, which may differ from yours. Give --data DIR to use your own.")
    folder = run_export(source, output, format, precision, data, max_drop, split)
    proof = json.loads((folder / PROOF).read_text(encoding="utf-8"))
    if proof["calibrated_on"] == f"the split {split}, which the proof is of too":
        print_note("int8 was calibrated on the images of the proof, because there are no training images")
    if "fault" in proof:
        print_note(proof["fault"])
    else:
        print_facts(_proof_lines(proof, data, split))
    print_written(folder, folder / PROOF)
    print_next("use the export", "cdetr", "predict", folder, "IMAGES")


def _proof_lines(proof: dict[str, Any], data: str | None, split: str) -> dict[str, str]:
    """The contents of a proof in words."""
    ap, boxes, latency = proof["AP"], proof["boxes"], proof["latency_ms"]
    compared = f"{proof['images']} {'synthetic images' if data is None else f'images of {data}, {split}'}"
    if data is None:
        compared_ap = f"not compared on {compared}; give --data DIR to compare it on yours"
    elif ap["original"] is None:
        compared_ap = f"not compared: there are no objects in {compared}"
    elif not ap["original"]:
        compared_ap = f"not compared: the original model finds nothing in {compared}"
    else:
        compared_ap = f"{ap['original']:.4f} → {ap['exported']:.4f} on {compared}"
    if proof["unreadable"]:
        compared_ap += f"; {proof['unreadable']} more images cannot be read"
    found = f"the model has none with a score of {boxes['score']} or more"
    if boxes["original"]:
        found = (
            f"{boxes['matched']} of the model's {boxes['original']} boxes with a score of {boxes['score']} or more found again"
        )
    if difference := boxes["score_difference"]:
        found += f", with an IoU of at least {boxes['least_iou']:.3f} and scores that differ by at most {difference['max']:.4f}"
    return {
        "AP": compared_ap,
        "boxes": f"{found}; the export has {boxes['exported']} such boxes",
        "scores": f"differ by at most {boxes['rank_difference']:.4f} at the same rank",
        "latency": f"{latency['original']:.1f} → {latency['exported']:.1f} ms per image",
        "engine": proof["run_by"],
    }
