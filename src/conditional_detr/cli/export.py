"""`cdetr export`."""

import sys
from pathlib import Path
from typing import Any

from conditional_detr.cli.printing import note_doubts


def export(
    source: str,
    output: Path,
    /,
    *,
    format: str = "openvino",
    precision: str = "bf16",
    data: str | None = None,
    split: str = "valid",
    max_drop: float | None = None,
    threads: int = 0,
) -> None:
    """Write a model as a graph for ONNX Runtime or OpenVINO, with the proof that it finds the same.

    Parameters
    ----------
    source
        Run folder, checkpoint folder, Hugging Face folder, .pth, model name or Hub id.
    output
        Folder of the export, which is a source for predict, eval and bench.
    format
        onnx or openvino.
    precision
        fp32; bf16, which halves the weights and is faster where the processor has it; or int8, calibrated on the training
        images of --data.
    data
        COCO folder: both models are judged on it. Without it they are compared on synthetic images, a weaker proof.
    split
        train, valid or test: of the proof.
    max_drop
        How much lower the export's AP may be; by default 0.005, for int8 0.01.
    threads
        Processor threads; 0 = as many as there are.
    """
    import json

    from conditional_detr.device.threads import set_threads
    from conditional_detr.exporting.export import export as run_export
    from conditional_detr.weights.exported import PROOF

    note_doubts(source)
    set_threads(threads)
    if precision == "int8" and data is None:
        print("note: calibrated on synthetic images, whose ranges are not yours: --data FOLDER takes yours", file=sys.stderr)
    folder = run_export(source, output, format, precision, data, max_drop, split)
    proof = json.loads((folder / PROOF).read_text(encoding="utf-8"))
    if proof["calibrated_on"] == f"the split {split}, which the proof is of too":
        print("note: calibrated on the images of the proof, as there are no others", file=sys.stderr)
    if "fault" in proof:
        print(f"note: {proof['fault']}", file=sys.stderr)
    else:
        for name, text in _proof_lines(proof, data, split).items():
            print(f"{name:<10} {text}")
    print(f"→ {folder}, {folder / PROOF}")


def _proof_lines(proof: dict[str, Any], data: str | None, split: str) -> dict[str, str]:
    """What a proof says, for people."""
    ap, boxes, latency = proof["AP"], proof["boxes"], proof["latency_ms"]
    compared = f"{proof['images']} {'synthetic images' if data is None else f'images of {data}, {split}'}"
    if data is None:
        judged = f"not judged on {compared}; --data FOLDER judges it on yours"
    elif ap["original"] is None:
        judged = f"not judged: there are no objects in {compared}"
    elif not ap["original"]:
        judged = f"not judged: the original finds nothing in {compared}"
    else:
        judged = f"{ap['original']:.4f} → {ap['exported']:.4f} on {compared}"
    if proof["unreadable"]:
        judged += f"; {proof['unreadable']} more cannot be read"
    found = f"none with a score of {boxes['score']} or more to compare"
    if boxes["original"]:
        found = f"{boxes['matched']} of {boxes['original']} with a score of {boxes['score']} or more found again"
    if difference := boxes["score_difference"]:
        found += f", IoU {boxes['least_iou']:.3f} or more, scores differ by {difference['max']:.4f} at most"
    return {
        "AP": judged,
        "boxes": f"{found}; the export has {boxes['exported']} of its own such",
        "scores": f"of the same rank differ by {boxes['rank_difference']:.4f} at most",
        "latency": f"{latency['original']:.1f} → {latency['exported']:.1f} ms an image",
        "engine": proof["run_by"],
    }
